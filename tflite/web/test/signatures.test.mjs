import assert from 'node:assert/strict';
import {test} from 'node:test';

import {DynamicModel} from '../model.mjs';
import {isTable, SignatureTable} from '../signatures.mjs';

const NOTED = {
  one: {kind: 'step', order: 1},
  two: {kind: 'step', order: 2, follows: 'one'},
  ten: {kind: 'step', order: 10, follows: 'two'},
  why: {kind: 'witness', explained_by: 'why'},
  what: {kind: 'answer', explained_by: 'why'},
  who: {kind: 'answer_at', explained_by: 'gone'},
  gone: {kind: 'stage', order: 1},
};

test('a table in a file: its names say nothing', () => {
  assert.ok(isTable(NOTED));
  const table = new SignatureTable(NOTED, ['ten', 'classify', 'two', 'one', 'why', 'what', 'who']);
  assert.deepEqual(table.of('step'), ['one', 'two', 'ten']);
  assert.deepEqual(table.of('answer'), ['what']);
  assert.deepEqual(table.of('other'), ['classify']);
  assert.deepEqual(table.of('stage'), []); // the file has it no more
  assert.equal(table.explains('what'), 'why');
  assert.equal(table.explains('who'), undefined);
  assert.ok(table.begins('step') && !table.begins('stage'));
  assert.deepEqual(new SignatureTable({}, ['constructor']).of('other'), ['constructor']);
});

test('names of version 0.1.0', () => {
  const table = new SignatureTable(undefined, ['classify', 'classify_at', 'classify_k2',
    'explain', 'stage_1', 'start', 'step_10', 'step_2', 'step_x', 'stage_0', 'toString']);
  assert.deepEqual(table.of('answer'), ['classify']);
  assert.deepEqual(table.of('answer_at'), ['classify_at']);
  assert.deepEqual(table.of('subnetwork'), ['classify_k2']);
  assert.deepEqual(table.of('step'), ['start', 'step_2', 'step_10']);
  assert.deepEqual(table.of('stage'), ['stage_1']);
  assert.deepEqual(table.of('other'), ['step_x', 'stage_0', 'toString']);
  assert.equal(table.explains('classify'), 'explain');
  assert.equal(table.explains('classify_at'), undefined); // explain_at is gone
  assert.ok(!table.begins('subnetwork'));
});

test('a model finds its signatures by the table', async () => {
  const image = {dtype: 'float32', shape: [1, 2, 2, 3]};
  const outputs = {label: {}, logits: {}, 'block/channel': {}};
  const calls = [];
  const run = async (name) => {
    calls.push(name);
    return {label: [1], logits: [0, 1], 'block/channel': [1, 0]};
  };
  const signatures = {
    what: {inputs: {image}, outputs: {label: {}, logits: {}}},
    why: {inputs: {image}, outputs},
  };
  const metadata = {signatures: {what: NOTED.what, why: NOTED.why}};
  const model = new DynamicModel({signatures, run}, metadata, () => 0);
  assert.equal(model.kind, 'gated');
  assert.equal((await model.classify(new Float32Array(12))).openRate, 0.5);
  assert.deepEqual(calls, ['what', 'why']);
});
