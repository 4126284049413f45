import assert from 'node:assert/strict';
import {test} from 'node:test';

import {exitText, labelOf, openRates, readAnswer, thresholdsAt, topProbability} from '../answer.mjs';
import {DynamicModel} from '../model.mjs';
import {setUpNode} from '../node.mjs';
import {smallFile} from './files.mjs';

const IMAGE = {dtype: 'float32', shape: [1, 2, 2, 3]};
const ANSWER = {label: {}, logits: {}, executed_macs: {}};
const BLANK = new Float32Array(12);

/** A model of a runner that answers `answers[signature](inputs)`, a millisecond each. */
function fake(signatures, answers, metadata = {}) {
  let clock = 0;
  const calls = [];
  const run = async (name, inputs) => {
    calls.push(name);
    clock += 1;
    return answers[name](inputs);
  };
  const model = new DynamicModel({signatures, run}, metadata, () => clock);
  return Object.assign(model, {calls});
}

const says = (label, macs, more = {}) => () =>
  ({label: [label], logits: [0, Math.log(3)], executed_macs: [macs], ...more});

function exitsModel(more = {}) {
  const at = {image: IMAGE, thresholds: {dtype: 'float32', shape: [2]}};
  const exit = (thresholds) => [1.5, 2.5].findIndex((score, k) => score >= thresholds[k]);
  return fake(
    {classify: {inputs: {image: IMAGE}, outputs: ANSWER},
      classify_at: {inputs: at, outputs: ANSWER}},
    {classify_at: ({thresholds}) => {
      const left = exit(thresholds);
      const k = left < 0 ? 2 : left;
      return says(1, [10, 20, 41][k], {exit: [k], score: [k + 1.5]})();
    }},
    {thresholds: [2, 2], macs: 40000, labels: ['cat', 'dog'], ...more});
}

test('exits: one slider moves from the first exit to the last', async () => {
  const model = exitsModel();
  assert.equal(model.kind, 'exits');
  assert.equal(model.exits, 3);
  assert.ok(model.adjustable);
  const own = await model.classify(BLANK, {repeats: 3});
  assert.equal(model.calls.length, 3);
  assert.deepEqual(own, {
    label: 1, labelName: 'dog', probability: null, score: 2.5, exit: 1, place: null,
    executedMacs: 20000, macs: 40000, share: 0.5, ms: 1, thresholds: [2, 2],
  });
  assert.equal(exitText(own, model.exits), '2 of 3'); // an older file
  const first = await model.classify(BLANK, {position: 0});
  assert.deepEqual([first.exit, first.share], [0, 0.25]);
  const last = await model.classify(BLANK, {position: 1});
  assert.deepEqual([last.exit, last.share], [2, 1.025]);
  assert.ok(Math.abs(last.probability - 0.75) < 1e-9); // of the net's own head
});

test('exits: an answer tells where its exit is', async () => {
  const noted = (name, after, macs) => ({name, after, macs, macs_share: macs / 41000});
  const model = exitsModel({exits: [
    noted('first', 'input', 10000), noted('gate_1', 'b4_add', 20000),
    noted('head', null, 41000)]});
  const said = [];
  for (const position of [0, 0.5, 1]) {
    const answer = await model.classify(BLANK, {position});
    assert.equal(answer.place.macs, answer.executedMacs);
    said.push(exitText(answer, model.exits));
  }
  assert.deepEqual(said, [
    '1 of 3, after the input, .24 of the MACs', '2 of 3, after b4_add, .49 of the MACs',
    '3 of 3, at the end, 1.00 of the MACs']);
  assert.equal(exitText(readAnswer({logits: [0, 1]}, {}), 0), null); // no exits at all
});

test('thresholds rise with the position, through the own ones', () => {
  const own = [0.5, -1, 1e38];
  const rows = [0, 0.2, 0.5, 0.8, 1].map((at) => [...thresholdsAt(own, at)]);
  for (let index = 1; index < rows.length; index++) {
    assert.ok(rows[index][0] > rows[index - 1][0]);
    assert.ok(rows[index][1] > rows[index - 1][1]);
  }
  assert.deepEqual(rows[2].slice(0, 2), [0.5, -1]);
  assert.ok(rows.flat().every(Number.isFinite));
  assert.throws(() => thresholdsAt(own, 1.1), /from 0 to 1\. Received: 1\.1/);
});

test('gates: decisions become open rates', async () => {
  const decisions = {'block10/channel': [0, 0], 'block2/channel': [1, 0]};
  const model = fake(
    {classify: {inputs: {image: IMAGE}, outputs: ANSWER},
      explain: {inputs: {image: IMAGE}, outputs: {...ANSWER, ...decisions}}},
    {classify: says(0, 3), explain: says(0, 3, decisions)}, {macs: 12000});
  assert.equal(model.kind, 'gated');
  const answer = await model.classify(BLANK);
  assert.equal(answer.openRate, 0.25);
  assert.deepEqual(answer.blocks, [
    {name: 'block2', open: 1, gates: 2}, {name: 'block10', open: 0, gates: 2}]);
  assert.deepEqual([answer.labelName, answer.share], [null, 0.25]);
});

test('channels of a shut layer are not open', () => {
  const {openRate, blocks} = openRates({
    'a/layer': [0], 'a/channel': [0.7, 0.2], 'b/layer': [0.4], 'b/channel': [0.3, 0],
    'c/layer': [1], 'label': [4], 'logits': [1, 2], 'executed_macs': [3],
  });
  assert.deepEqual(blocks.map(({open, gates}) => [open, gates]), [[0, 2], [1, 2], [1, 1]]);
  assert.equal(openRate, 0.4);
  assert.equal(openRates({label: [1]}).openRate, null);
});

test('steps: go on from what was carried, until the deadline', async () => {
  const known = [];
  const step = (label, macs, more) => (inputs) => {
    known.push(Object.keys(inputs).sort());
    return says(label, macs, more)();
  };
  const inputs = {image: IMAGE};
  const model = fake(
    {step_10: {inputs, outputs: ANSWER}, start: {inputs, outputs: ANSWER},
      step_2: {inputs, outputs: ANSWER}},
    {start: step(0, 1, {a_1: [1]}), step_2: step(1, 2, {a_2: [2]}), step_10: step(1, 5)},
    {macs: 8000});
  assert.equal(model.kind, 'anytime');
  assert.deepEqual(model.steps, ['start', 'step_2', 'step_10']);
  await model.warmUp();
  assert.equal(model.fullMs, 3);
  known.length = 0;
  const all = await model.classify(BLANK);
  assert.deepEqual(known, [['image'], ['a_1', 'image'], ['a_1', 'a_2', 'image']]);
  assert.deepEqual([all.step, all.steps, all.executedMacs, all.share, all.ms],
    [3, 3, 8000, 1, 3]);
  const soon = await model.classify(BLANK, {deadline: 2});
  assert.deepEqual([soon.step, soon.executedMacs, soon.inTime], [2, 3000, true]);
  await assert.rejects(model.classify(BLANK, {deadline: NaN}), /0 ms or more\. Received: NaN/);
});

test('sub-networks that start anew: each is timed, one is run', async () => {
  const inputs = {image: IMAGE};
  const names = ['classify_k1', 'classify_k3'];
  const model = fake(
    {...Object.fromEntries(names.map((name) => [name, {inputs, outputs: ANSWER}])),
      classify: {inputs, outputs: ANSWER}},
    {classify_k1: says(0, 1), classify_k3: says(1, 4)});
  await model.warmUp();
  assert.deepEqual(model.calls.slice(0, 2), names);
  assert.equal((await model.classify(BLANK, {deadline: 5})).executedMacs, 4000);
});

test('refuses nets that do not classify pictures', () => {
  const segment = {segment: {inputs: {image: IMAGE}, outputs: {labels: {}}}};
  assert.throws(() => fake(segment, {}), /signature `classify`.*Received: segment\(image/s);
  const sound = {classify: {inputs: {image: {dtype: 'float32', shape: [1, 9]}}, outputs: {}}};
  assert.throws(() => fake(sound, {}), /\[1, height, width, 3\].*Received: classify/s);
  const two = {classify: {
    inputs: {image: IMAGE, age: {dtype: 'float32', shape: [1, 1]}}, outputs: ANSWER}};
  assert.throws(() => fake(two, {}), /only input `image`.*age: float32 \[1, 1\]/s);
  assert.throws(() => fake({}, {}), /Received: no signatures/);
});

test('a probability stays one for any logits', () => {
  assert.equal(topProbability([1000, -1000]), 1);
  assert.equal(topProbability([-5, -5, -5, -5]), 0.25);
});

test('one logit tells two classes', async () => {
  const labels = ['no', 'yes'];
  for (const [logit, label, probability] of [
    [Math.log(3), 1, 0.75], [-Math.log(4), 0, 0.8], [0, 0, 0.5], [1000, 1, 1], [-1000, 0, 1],
  ]) {
    const logits = Float32Array.of(logit);
    assert.equal(labelOf(logits), label);
    const answer = readAnswer({logits}, {labels}); // a file without `label`
    assert.deepEqual([answer.label, answer.labelName], [label, labels[label]]);
    assert.ok(Math.abs(answer.probability - probability) < 1e-6);
  }
  assert.deepEqual([labelOf([2, 5, 5]), labelOf([NaN])], [1, 0]);
  const binary = fake({classify: {inputs: {image: IMAGE}, outputs: ANSWER}},
    {classify: () => ({label: [1], logits: [Math.log(3)], executed_macs: [2]})}, {labels});
  const {labelName, probability, executedMacs} = await binary.classify(BLANK);
  assert.deepEqual([labelName, executedMacs], ['yes', 2000]);
  assert.ok(Math.abs(probability - 0.75) < 1e-6);
});

test('LiteRT.js loads in Node, and refuses a file without a graph', async () => {
  const wasm = setUpNode();
  const rubbish = smallFile('{}');
  await assert.rejects(
    DynamicModel.load(rubbish, {wasm}), /LiteRT\.js can run\. Received: \d+ bytes/);
});
