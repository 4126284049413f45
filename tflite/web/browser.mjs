// Tries the page in headless Chromium:
//
//   node browser.mjs --model net.tflite --picture cat.jpg [--screenshot page.png]
//       [--size 390x844] [--slider 0.3] [--golden FOLDER --found FOLDER]
//
// Chooses the model, drops the picture, prints the answer as JSON. With --golden, every case
// of the folder is run in the page as well, outputs into --found. Environment CHROMIUM: the
// browser, /usr/bin/chromium if not given.

import {readFileSync} from 'node:fs';
import {basename, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';

import {chromium} from 'playwright-core';

import {runCases} from './golden.mjs';
import {serve} from './serve.mjs';

const PATIENCE_MS = 60_000;
const ARGUMENTS = ['--no-sandbox', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--no-first-run'];

/** Waits until `reached` (a function run in the page) or the page shows an error. */
async function waitUntil(page, reached) {
  await page.waitForFunction(reached, null, {timeout: PATIENCE_MS}).catch(async () => {
    throw new Error(`The page must answer within ${PATIENCE_MS / 1000} s. ` +
      `Received: ${await page.textContent('#message') || 'no message'}`);
  });
  if (await page.evaluate(() => document.body.dataset.state) === 'error') {
    throw new Error(await page.textContent('#message'));
  }
}

/** The answer on the page once it is there. */
async function waitForAnswer(page) {
  await waitUntil(page, () => ['done', 'error'].includes(document.body.dataset.state));
  return JSON.parse(await page.evaluate(() => document.body.dataset.answer));
}

async function chooseModel(page, path) {
  await page.setInputFiles('#model-file', path);
  await waitUntil(page, () => document.body.dataset.state === 'error' ||
    document.getElementById('model-facts').textContent);
}

/** Drops a file as a user would: with a DataTransfer, on the page. */
async function drop(page, path) {
  const file = {name: basename(path), base64: readFileSync(path).toString('base64')};
  const transfer = await page.evaluateHandle(({name, base64}) => {
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name));
    return data;
  }, file);
  await page.evaluate(() => { document.body.dataset.state = 'waiting'; });
  await page.dispatchEvent('#choose-picture', 'dragover', {dataTransfer: transfer});
  await page.dispatchEvent('#choose-picture', 'drop', {dataTransfer: transfer});
}

async function moveSlider(page, value) {
  await page.evaluate((to) => {
    document.body.dataset.state = 'waiting';
    const slider = document.getElementById('slider');
    slider.value = to;
    slider.dispatchEvent(new Event('input'));
  }, value);
  return waitForAnswer(page);
}

/** Runs golden cases in the page; returns how many. */
async function golden(page, folder, found) {
  await page.route('**/golden.tflite', (route) =>
    route.fulfill({path: join(folder, 'model.tflite')}));
  await page.evaluate(async () => {
    const {DynamicModel} = await import('./model.mjs');
    const bytes = new Uint8Array(await (await fetch('golden.tflite')).arrayBuffer());
    const wasm = new URL('node_modules/@litertjs/core/wasm/', document.baseURI).href;
    globalThis.golden = await DynamicModel.load(bytes, {wasm});
  });
  return runCases(folder, found, async (signature, inputs) => {
    const given = Object.entries(inputs).map(([name, bytes]) => [name, [...bytes]]);
    const outputs = await page.evaluate(async ([key, entries]) => {
      const typed = entries.map(([name, bytes]) => [name, Uint8Array.from(bytes)]);
      const result = await globalThis.golden.runner.runBytes(
        key, Object.fromEntries(typed));
      return Object.entries(result).map(([name, bytes]) => [name, [...bytes]]);
    }, [signature, given]);
    return Object.fromEntries(
      outputs.map(([name, bytes]) => [name, Uint8Array.from(bytes)]));
  });
}

async function drive(page, base, values) {
  await page.goto(base);
  await chooseModel(page, values.model);
  await drop(page, values.picture);
  let answer = await waitForAnswer(page);
  if (values.slider) answer = await moveSlider(page, values.slider);
  if (values.golden) answer.golden = await golden(page, values.golden, values.found);
  return answer;
}

async function main() {
  const text = {type: 'string'};
  const {values} = parseArgs({options: {
    model: text, picture: text, screenshot: text, size: {...text, default: '1000x800'},
    slider: text, golden: text, found: text,
  }});
  if (!values.model || !values.picture || !values.golden !== !values.found) {
    throw new Error('The command must have --model and --picture, and --found with ' +
      `--golden. Received: ${process.argv.slice(2).join(' ') || 'nothing'}.`);
  }
  const [width, height] = values.size.split('x').map(Number);
  const server = await serve({root: fileURLToPath(new URL('.', import.meta.url))});
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  let browser;
  try {
    browser = await chromium.launch({executablePath, args: ARGUMENTS});
    const page = await browser.newPage({viewport: {width, height}});
    const broken = new Promise((_, reject) => page.on('pageerror', reject));
    const base = `http://127.0.0.1:${server.address().port}/`;
    try {
      const answer = await Promise.race([drive(page, base, values), broken]);
      console.log(JSON.stringify({browser: browser.version(), ...answer}, null, 1));
    } finally {
      const path = values.screenshot;
      if (path) await page.screenshot({path, fullPage: true});
    }
  } finally {
    await browser?.close();
    server.close();
  }
}

main().catch((error) => {
  console.error(error.message.split('\n')[0]);
  process.exit(1);
});
