// The page: a net, a picture, and what the one says of the other.

import {DynamicModel} from './model.mjs';
import {offered, showOffer} from './offered.mjs';
import {show, showImage} from './show.mjs';

const WASM = new URL('node_modules/@litertjs/core/wasm/', document.baseURI).href;
const LARGEST = 2048; // pixels a side; phones refuse larger canvases than their pictures
const REPEATS = 5;
const DEADLINES = 1.25; // longest deadline of the slider, over what all steps take
const KINDS = {
  anytime: 'a net with steps',
  exits: 'a net with early exits',
  gated: 'a net with gates',
  plain: 'a plain net',
};

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const threads = Number(query.get('threads')) || 1;
let model = null;
let image = null; // the picture as the net takes it
let moved = false; // whether the slider was moved and its answer is still to come
let turn = Promise.resolve(); // one thing at a time: a net serves one caller

function say(text, error = false) {
  $('message').textContent = text;
  $('message').hidden = !text;
  $('message').classList.toggle('error', error);
  document.body.dataset.state = error ? 'error' : text ? 'waiting' : 'done';
}

/** Runs `task` after what is under way; an error becomes a message. */
function queue(task) {
  turn = turn.then(task).catch((error) => {
    $('answer').hidden = true;
    say(error.message, true);
  });
  return turn;
}

async function useModel(bytes, name) {
  say('Loading the net …');
  model?.delete();
  model = image = null;
  $('answer').hidden = true;
  $('model-name').textContent = `${name} (choose another)`;
  $('model-facts').textContent = '';
  setUpControl();
  model = await DynamicModel.load(bytes, {wasm: WASM, threads});
  setUpControl();
  const {width, height} = model.input;
  $('model-facts').textContent =
    `${KINDS[model.kind]}, ${model.metadata.quantization ?? 'float32'}, ` +
    `${width} x ${height} pixels, ${(bytes.length / 1e6).toFixed(2)} MB`;
  if ($('picture').hidden) {
    say('Now choose a picture.');
  } else {
    await answer();
  }
}

/** The slider: thresholds of exits, the deadline of steps, or none. */
function setUpControl() {
  const anytime = model?.kind === 'anytime';
  $('control').hidden = !(anytime || model?.adjustable);
  $('slider').value = anytime ? 1 : 0.5;
  $('control-name').textContent = anytime ? 'deadline' : 'thresholds of the exits';
  $('control-low').textContent = anytime ? 'first answer' : 'leave at once';
  $('control-high').textContent = anytime ? 'best answer' : 'never leave early';
}

function options() {
  const position = Number($('slider').value);
  const deadline = position * DEADLINES * model.fullMs;
  return {position, deadline, repeats: REPEATS};
}

async function answer() {
  image = model.prepare($('picture').getContext('2d').getImageData(
    0, 0, $('picture').width, $('picture').height));
  showImage(image, model.input);
  await classify();
}

async function classify() {
  const chosen = options();
  const found = await model.classify(image, chosen);
  show(found, model, chosen);
  document.body.dataset.answer = JSON.stringify({kind: model.kind, ...found});
  say('');
}

async function usePicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(
      `The picture must be one that this browser reads. Received: ${file.name}.`);
  }
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = $('picture');
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.fillStyle = 'white'; // under what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  canvas.hidden = false;
  $('empty').hidden = true;
  $('choose-picture').classList.add('filled');
  if (!model) throw new Error('A net must be chosen: a .tflite file. Received: none yet.');
  await answer();
}

async function useFile(file) {
  const head = new TextDecoder().decode(await file.slice(4, 8).arrayBuffer());
  const isModel = head === 'TFL3' || file.name.endsWith('.tflite');
  if (isModel) {
    await useModel(new Uint8Array(await file.arrayBuffer()), file.name);
  } else {
    await usePicture(file);
  }
}

async function fetchModel(url) {
  say('Loading the net …');
  const refuse = (reason) => {
    throw new Error('?model= must be the address of a .tflite file. ' +
      `Received: ${url} (${reason}).`);
  };
  const response = await fetch(url).catch((error) => refuse(error.message));
  if (!response.ok) refuse(`status ${response.status}`);
  await useModel(new Uint8Array(await response.arrayBuffer()), url.split('/').at(-1));
}

function chosen(input, use) {
  input.addEventListener('change', () => {
    const [file] = input.files;
    if (file) queue(() => use(file));
    input.value = ''; // the same file may be chosen again
  });
}

chosen($('picture-file'), usePicture);
chosen($('model-file'), async (file) =>
  useModel(new Uint8Array(await file.arrayBuffer()), file.name));
$('slider').addEventListener('input', () => {
  if (moved) return;
  moved = true;
  queue(async () => {
    moved = false;
    if (image) await classify();
  });
});
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.add('dragging');
});
document.addEventListener('dragleave', () => document.body.classList.remove('dragging'));
document.addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('dragging');
  for (const file of event.dataTransfer.files) queue(() => useFile(file));
});

/** Nets and photos that lie beside the page, each a click away. */
async function offer() {
  const found = await offered();
  if (!found) return;
  showOffer($('offer'), found, {
    useNet: (url) => queue(() => fetchModel(url)),
    usePhoto: (url) => queue(async () => {
      if (!model) await fetchModel(found.nets[0].url);
      const bytes = await (await fetch(url)).blob();
      await usePicture(new File([bytes], url.split('/').at(-1)));
    }),
  });
}

say('Choose a net: a .tflite file of keras_dyngate.');
offer();
if (query.has('model')) queue(() => fetchModel(query.get('model')));
