// Runs every golden case of a folder that `keras_dyngate.runtime.write_golden` wrote:
//
//   node golden.mjs GOLDEN_FOLDER FOUND_FOLDER
//
// Outputs go into FOUND_FOLDER under the golden names, for `compare_golden`.

import {mkdirSync, readFileSync, realpathSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';

import {DynamicModel} from './model.mjs';
import {setUpNode} from './node.mjs';

/** Lines of cases.txt: {signature, inputs: {tensor: file}, outputs: {tensor: file}}. */
export function parseCases(text) {
  return text.split('\n').filter((line) => line).map((line) => {
    const [signature, ...words] = line.split(' ');
    const found = {signature, inputs: {}, outputs: {}};
    for (const word of words) {
      const match = /^([^=]+)=(>?)([^=>/\\]+)$/.exec(word);
      if (!match) {
        throw new Error('Every line of cases.txt must be a signature and words ' +
          `tensor=file or tensor=>file. Received: ${line.slice(0, 120)}.`);
      }
      found[match[2] ? 'outputs' : 'inputs'][match[1]] = match[3];
    }
    return found;
  });
}

/** Runs all cases with `run(signature, {tensor: bytes})`; returns how many there are. */
export async function runCases(folder, found, run) {
  const cases = parseCases(readFileSync(join(folder, 'cases.txt'), 'utf8'));
  mkdirSync(found, {recursive: true});
  for (const {signature, inputs, outputs} of cases) {
    const bytes = Object.fromEntries(Object.entries(inputs).map(
      ([name, file]) => [name, readFileSync(join(folder, file))]));
    const result = await run(signature, bytes);
    for (const [name, file] of Object.entries(outputs)) {
      if (!Object.hasOwn(result, name)) {
        throw new Error(`Signature ${signature} must have an output "${name}". ` +
          `Received: ${Object.keys(result).join(', ')}.`);
      }
      writeFileSync(join(found, file), result[name]);
    }
  }
  return cases.length;
}

async function main(folder, found) {
  if (!folder || !found) {
    throw new Error('The command must be: node golden.mjs GOLDEN_FOLDER FOUND_FOLDER.');
  }
  const wasm = setUpNode();
  const model = await DynamicModel.load(
    new Uint8Array(readFileSync(join(folder, 'model.tflite'))), {wasm});
  const count = await runCases(
    folder, found, (signature, inputs) => model.runner.runBytes(signature, inputs));
  console.log(`${count} cases`);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main(...process.argv.slice(2)).then(
    () => process.exit(0),
    (error) => {
      console.error(error.message.replaceAll('\n', ' '));
      process.exit(1);
    });
}
