// LiteRT.js in Node: it loads its script as a web worker would, so Node must look like one.

import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname} from 'node:path';
import {fileURLToPath} from 'node:url';
import {runInThisContext} from 'node:vm';

const require = createRequire(import.meta.url);

/** Lets errors through; not what LiteRT says about itself, or about a missing GPU. */
function show(line) {
  if (!/^(INFO|WARNING):/.test(line)) console.error(line);
}

function importScripts(url) {
  const path = url.startsWith('file:') ? fileURLToPath(url) : url;
  runInThisContext(readFileSync(path, 'utf8'), {filename: path});
}

/** Prepares this process for LiteRT.js; returns the folder to pass as `wasm`. */
export function setUpNode() {
  const main = require.resolve('@litertjs/core');
  const folder = `${dirname(dirname(main))}/wasm/`;
  const warn = console.warn;
  console.warn = (...words) => /WebGPU/.test(words[0]) || warn(...words);
  Object.assign(globalThis, {
    self: globalThis,
    require,
    importScripts,
    __filename: `${folder}litert.js`,
    __dirname: folder,
    location: {href: `file://${folder}`},
    Module: {print: show, printErr: show},
  });
  return folder;
}
