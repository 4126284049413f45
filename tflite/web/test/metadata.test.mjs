import assert from 'node:assert/strict';
import {test} from 'node:test';

import {readMetadata, readReport} from '../metadata.mjs';
import {smallFile} from './files.mjs';

const REPORT = {macs: 1000, labels: ['cat', 'dög'], thresholds: [0.5]};
const FILE = smallFile(JSON.stringify(REPORT));

/** Reads bytes that may be anything: an object, or an Error with a message. */
function survives(bytes) {
  try {
    assert.equal(typeof readReport(bytes), 'object');
  } catch (error) {
    assert.ok(error instanceof Error && !(error instanceof TypeError), error.stack);
    assert.match(error.message, /must be .*Received: /s);
  }
}

test('reads the report', () => {
  assert.deepEqual(readReport(FILE), REPORT);
});

test('reads a view into a larger buffer', () => {
  const around = new Uint8Array(FILE.length + 20);
  around.set(FILE, 9);
  assert.deepEqual(readReport(around.subarray(9, 9 + FILE.length)), REPORT);
});

test('a file from elsewhere has an empty report', () => {
  const other = smallFile('1.2.3', {name: 'min_runtime'});
  assert.deepEqual(readReport(other), {});
  assert.equal(new TextDecoder().decode(readMetadata(other, 'min_runtime')), '1.2.3');
});

test('refuses what is no .tflite file', () => {
  for (const bytes of [new Uint8Array(0), new Uint8Array(4), new Uint8Array(500)]) {
    assert.throws(() => readReport(bytes), /must be a \.tflite file.*Received: \d+ bytes/);
  }
});

test('refuses a file cut off anywhere', () => {
  for (let length = 0; length < FILE.length; length++) {
    assert.throws(() => readReport(FILE.slice(0, length)), /must be .*Received: /);
  }
});

test('survives every byte replaced', () => {
  for (let at = 0; at < FILE.length; at++) {
    for (const value of [0, 1, 4, 0x7f, 0x80, 0xff]) {
      const bytes = FILE.slice();
      bytes[at] = value;
      survives(bytes);
    }
  }
});

test('survives every offset replaced', () => {
  const far = [0, 1, 0x7fffffff, 0x80000000, 0xfffffffc, 0xffffffff, FILE.length];
  for (let at = 0; at + 4 <= 120; at++) {
    for (const value of far) {
      const bytes = FILE.slice();
      new DataView(bytes.buffer).setUint32(at, value, true);
      survives(bytes);
    }
  }
});

test('refuses a buffer that the file lacks', () => {
  assert.throws(
    () => readReport(smallFile('{}', {buffer: 2})), /one of the file's 2 buffers.*buffer 2/);
});

test('refuses reports of another form', () => {
  for (const text of ['', '{', '[]', 'null', '"x"', '{"labels": "cat"}', '{"macs": -1}',
    '{"thresholds": [1, "2"]}', '{"labels": [1]}', '{"exits": {}}', '{"exits": [null]}',
    '{"exits": [{"name": "head", "macs": 1, "macs_share": 1}]}',
    '{"signatures": []}', '{"signatures": {"a": null}}', '{"signatures": {"a": {"order": 1}}}',
    '{"signatures": {"a": {"kind": "step", "order": 0}}}',
    '{"signatures": {"a": {"kind": "step", "order": "1"}}}',
    '{"signatures": {"a": {"kind": "answer", "explained_by": 1}}}',
    '{"exits": [{"name": "head", "after": null, "macs": "1", "macs_share": 1}]}']) {
    assert.throws(() => readReport(smallFile(text)), /must be .*Received: /, text);
  }
  assert.deepEqual(readReport(smallFile('{"labels": null}')), {labels: null});
  const exits = [{name: 'first', after: 'input', macs: 1, macs_share: 0.1},
    {name: 'head', after: null, macs: 10, macs_share: 1}];
  assert.deepEqual(readReport(smallFile(JSON.stringify({exits}))), {exits});
});
