import assert from 'node:assert/strict';
import {mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync} from 'node:fs';
import {request} from 'node:http';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {after, test} from 'node:test';

import {findFile, serve} from '../serve.mjs';

const outside = realpathSync(mkdtempSync(join(tmpdir(), 'serve-')));
const root = join(outside, 'root');
mkdirSync(join(root, 'sub'), {recursive: true});
writeFileSync(join(outside, 'secret.txt'), 'secret');
writeFileSync(join(root, '.hidden'), 'hidden');
writeFileSync(join(root, 'index.html'), '<p>');
writeFileSync(join(root, 'sub', 'a b.mjs'), 'export {};');
symlinkSync(join(outside, 'secret.txt'), join(root, 'link.txt'));
const server = await serve({root});
after(() => {
  server.close();
  rmSync(outside, {recursive: true});
});

function get(path, method = 'GET') {
  return new Promise((resolve, reject) => {
    const sent = request({port: server.address().port, path, method, agent: false}, (found) => {
      found.resume().on('end', () => resolve(found));
    });
    sent.on('error', reject).end();
  });
}

test('serves files with types and cross-origin headers', async () => {
  const page = await get('/?model=x');
  assert.equal(page.statusCode, 200);
  assert.match(page.headers['content-type'], /^text\/html/);
  assert.equal(page.headers['cross-origin-opener-policy'], 'same-origin');
  assert.equal(page.headers['cross-origin-embedder-policy'], 'require-corp');
  const script = await get('/sub/a%20b.mjs', 'HEAD');
  assert.match(script.headers['content-type'], /^text\/javascript/);
});

test('serves nothing from outside its folder', async () => {
  for (const path of ['/../secret.txt', '/..%2fsecret.txt', '/%2e%2e/secret.txt', '/link.txt',
    '/sub/../../secret.txt', '//../secret.txt', '/.hidden', '/sub', '/none', '/%', '/a%00',
    '/..%5csecret.txt', `/${outside}/secret.txt`]) {
    assert.equal((await get(path)).statusCode, 404, path);
  }
  assert.equal((await get('/', 'POST')).statusCode, 405);
  assert.equal(await findFile(root, '/sub/../index.html'), null);
});
