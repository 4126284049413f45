import assert from 'node:assert/strict';
import {test} from 'node:test';

import {offered, title} from '../offered.mjs';

const answer = (ok, value) => async () => ({ok, json: async () => value});

test('a list beside the page becomes addresses', async () => {
  const list = {nets: [{file: 'a.tflite', name: 'a net'}], photos: ['01_Red-Apple.jpg']};
  assert.deepEqual(await offered(answer(true, list)), {
    nets: [{url: 'nets/a.tflite', name: 'a net'}],
    photos: [{url: 'nets/photos/01_Red-Apple.jpg', name: 'Red Apple'}],
  });
});

test('without a list nothing is offered', async () => {
  assert.equal(await offered(answer(false)), null);
  assert.equal(await offered(async () => { throw new TypeError('offline'); }), null);
});

test('a name goes without number and ending', () => {
  assert.equal(title('12_Oat-Milk_1.5.jpg'), 'Oat Milk 1.5');
});
