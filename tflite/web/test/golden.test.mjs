import assert from 'node:assert/strict';
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {after, test} from 'node:test';

import {parseCases, runCases} from '../golden.mjs';

const folder = mkdtempSync(join(tmpdir(), 'golden-'));
after(() => rmSync(folder, {recursive: true}));
const LINE = 'explain image=0.in0.raw block1/channel=>0.out0.raw label=>0.out1.raw';

test('reads the lines that write_golden writes', () => {
  assert.deepEqual(parseCases(`${LINE}\n`), [{
    signature: 'explain',
    inputs: {image: '0.in0.raw'},
    outputs: {'block1/channel': '0.out0.raw', label: '0.out1.raw'},
  }]);
});

test('refuses other lines, and files elsewhere', () => {
  for (const line of ['a b', 'a =b', 'a b=', 'a b=>../c', 'a b=/c', 'a b=c=d', 'a  b=c']) {
    assert.throws(() => parseCases(line), /signature and words.*Received: a/, line);
  }
});

test('writes outputs under the golden names', async () => {
  writeFileSync(join(folder, 'cases.txt'), `${LINE}\n`);
  writeFileSync(join(folder, '0.in0.raw'), Uint8Array.of(1, 2));
  const found = join(folder, 'found');
  const run = async (signature, {image}) =>
    ({'block1/channel': image, label: Uint8Array.of(signature.length)});
  assert.equal(await runCases(folder, found, run), 1);
  assert.deepEqual([...readFileSync(join(found, '0.out0.raw'))], [1, 2]);
  assert.deepEqual([...readFileSync(join(found, '0.out1.raw'))], [7]);
  await assert.rejects(runCases(folder, found, async () => ({label: 1})),
    /must have an output "block1\/channel"\. Received: label/);
});
