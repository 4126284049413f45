// Puts an answer on the page. Texts of a file go in as text, never as markup.

import {exitText, SURE} from './answer.mjs';

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const millis = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(1)} ms`;

function count(macs) {
  const unit = macs >= 1e9 ? ['GMACs', 1e9] : macs >= 1e6 ? ['MMACs', 1e6] : ['kMACs', 1e3];
  return `${(macs / unit[1]).toPrecision(3)} ${unit[0]}`;
}

/** A row of the list, or none where the net has nothing to say. */
function row(id, text) {
  $(`${id}-row`).hidden = text === null;
  if (text !== null) $(id).textContent = text;
}

function sureness({probability, score, exit, thresholds}) {
  if (probability !== null) return percent(probability);
  if (score === null) return '';
  const limit = thresholds?.[exit];
  const wanted = Math.abs(limit) < SURE ? `, needed ${limit.toFixed(2)}` : '';
  return `score ${score.toFixed(2)}${wanted}`;
}

function computed({executedMacs, macs, share}) {
  if (executedMacs === null) return null;
  return share === null ? count(executedMacs) : `${percent(share)} of ${count(macs)}`;
}

function time({ms, inTime = true, overrun}) {
  if (!inTime) return `${millis(ms)}, too late`;
  return overrun ? `${millis(ms)}; one step more was too late` : millis(ms);
}

function place(answer, exits) {
  return answer.steps ? `${answer.step} of ${answer.steps}` : exitText(answer, exits);
}

function position(answer, model, {position: at, deadline}) {
  if (model.kind === 'anytime') return millis(deadline);
  if (!answer.thresholds || at === 0 || at === 1) return '';
  const text = (limit) => limit >= SURE ? 'none leaves' : limit <= -SURE ? 'all leave'
    : limit.toFixed(2);
  return answer.thresholds.map(text).join(', ');
}

function showBlocks(blocks = []) {
  $('blocks').hidden = !blocks.length;
  $('blocks').firstElementChild.replaceChildren(...blocks.map(({name, open, gates}) => {
    const column = document.createElement('div');
    const level = document.createElement('div');
    column.title = `${name}: ${open} of ${gates}`;
    level.style.height = `${100 * open / gates}%`;
    column.append(level);
    return column;
  }));
}

/** @param answer From `classify`. @param options What it was asked with. */
export function show(answer, model, options) {
  $('label').textContent = answer.labelName ?? `class ${answer.label}`;
  $('probability').textContent = sureness(answer);
  $('ms').textContent = time(answer);
  $('exit-name').textContent = answer.steps ? 'step' : 'exit';
  row('exit', place(answer, model.exits));
  row('open', answer.openRate === undefined ? null : percent(answer.openRate));
  row('macs', computed(answer));
  $('share').hidden = answer.share === null;
  $('share').firstElementChild.style.width = `${100 * (answer.share ?? 0)}%`;
  showBlocks(answer.blocks);
  $('control-value').textContent = position(answer, model, options);
  $('answer').hidden = false;
}

/** The net's input, as a small picture. */
export function showImage(image, {width, height}) {
  const canvas = $('seen').querySelector('canvas');
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height);
  for (let index = 0; index < width * height; index++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * index + c] = image[3 * index + c];
    pixels.data[4 * index + 3] = 255;
  }
  canvas.getContext('2d').putImageData(pixels, 0, 0);
  $('seen').lastElementChild.textContent = `${width} x ${height} pixels`;
  $('seen').hidden = false;
}
