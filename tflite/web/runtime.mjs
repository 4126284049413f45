// LiteRT.js behind one class: typed arrays in, typed arrays out, by name.

import {loadAndCompile, loadLiteRt, Tensor, unloadLiteRt} from '@litertjs/core';

const TYPES = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};
let started = null;

const text = (error) => String(error?.message ?? error).trim();

/** Loads LiteRT's WebAssembly once per page, or per process. */
function start(wasm, threads) {
  started ??= loadLiteRt(wasm, {threads: threads > 1}).catch((error) => {
    started = null;
    throw new Error(
      `LiteRT.js must be in ${wasm} (npm ci puts it there). Received: ${text(error)}.`);
  });
  return started;
}

function specs(details) {
  return Object.fromEntries(
    details.map(({name, dtype, shape}) => [name, {dtype, shape: Array.from(shape)}]));
}

export class Runner {
  /**
   * @param bytes Uint8Array, a .tflite file.
   * @param options wasm: URL or path of the folder with LiteRT's WebAssembly, ending in "/";
   *   threads: more than 1 needs a page that is cross-origin isolated.
   */
  static async open(bytes, {wasm, threads = 1}) {
    await start(wasm, threads);
    try {
      const options = {accelerator: 'wasm', cpuOptions: {numThreads: threads}};
      return new Runner(await loadAndCompile(bytes, options));
    } catch (error) {
      started = null; // a file that is damaged may have aborted it
      unloadLiteRt();
      throw new Error(
        'The file must be a .tflite file that LiteRT.js can run. ' +
          `Received: ${bytes.length} bytes (${text(error)}).`);
    }
  }

  constructor(compiled) {
    this.compiled = compiled;
    this.signatures = Object.fromEntries(
      Object.entries(compiled.signatures).map(([name, signature]) => [name, {
        inputs: specs(signature.getInputDetails()),
        outputs: specs(signature.getOutputDetails()),
      }]));
  }

  /** Runs a signature once. */
  async run(signature, inputs) {
    const {inputs: wanted} = this.known(signature);
    const tensors = {};
    let outputs = {};
    try {
      for (const [name, spec] of Object.entries(wanted)) {
        tensors[name] = tensor(name, inputs[name], spec);
      }
      outputs = await this.compiled.run(signature, tensors);
      return Object.fromEntries(
        Object.entries(outputs).map(([name, output]) => [name, output.toTypedArray()]));
    } finally { // what is in WebAssembly's memory is not collected
      for (const used of [...Object.values(tensors), ...Object.values(outputs)]) {
        used.delete();
      }
    }
  }

  /** As `run`, with the tensors' little-endian bytes. */
  async runBytes(signature, inputs) {
    const {inputs: wanted} = this.known(signature);
    const typed = {};
    for (const [name, {dtype}] of Object.entries(wanted)) {
      const bytes = inputs[name];
      if (!bytes) continue; // `run` says what is missing
      if (bytes.length % TYPES[dtype].BYTES_PER_ELEMENT) {
        throw new Error(`Input "${name}" must be whole ${dtype} values. ` +
          `Received: ${bytes.length} bytes.`);
      }
      typed[name] = new TYPES[dtype](Uint8Array.from(bytes).buffer);
    }
    const outputs = await this.run(signature, typed);
    return Object.fromEntries(Object.entries(outputs).map(
      ([name, {buffer, byteOffset, byteLength}]) =>
        [name, new Uint8Array(buffer, byteOffset, byteLength)]));
  }

  known(signature) {
    if (!Object.hasOwn(this.signatures, signature)) {
      throw new Error(
        `The signature must be one of ${Object.keys(this.signatures).join(', ')}. ` +
          `Received: ${signature}.`);
    }
    return this.signatures[signature];
  }

  delete() {
    this.compiled.delete();
  }
}

function tensor(name, data, {dtype, shape}) {
  const size = shape.reduce((a, b) => a * b, 1);
  if (!(data instanceof TYPES[dtype]) || data.length !== size) {
    const given = data ? `${data.constructor.name} of ${data.length}` : 'nothing';
    throw new Error(`Input "${name}" must be a ${TYPES[dtype].name} of ${size} values. ` +
      `Received: ${given}.`);
  }
  return new Tensor(data, shape);
}
