import assert from 'node:assert/strict';
import {test} from 'node:test';

import {middle, prepareImage} from '../image.mjs';

/** RGBA pixels from `colour(x, y) => [r, g, b]`. */
function picture(width, height, colour) {
  const data = new Uint8ClampedArray(4 * width * height);
  for (let index = 0; index < width * height; index++) {
    data.set([...colour(index % width, Math.floor(index / width)), 255], 4 * index);
  }
  return {data, width, height};
}

const close = (found, wanted, tolerance = 1e-4) => {
  assert.equal(found.length, wanted.length);
  wanted.forEach((value, index) => assert.ok(
    Math.abs(found[index] - value) <= tolerance, `${index}: ${found[index]}, ${value}`));
};

test('a picture of the right size stays as it is', () => {
  const pixels = picture(3, 2, (x, y) => [10 * x, 100 * y, 255]);
  const image = prepareImage(pixels, {width: 3, height: 2, dtype: 'float32'});
  assert.ok(image instanceof Float32Array);
  close(image, [0, 0, 255, 10, 0, 255, 20, 0, 255, 0, 100, 255, 10, 100, 255, 20, 100, 255]);
});

test('one colour stays one colour at any size', () => {
  for (const [width, height] of [[1, 1], [7, 5], [40, 200], [200, 41]]) {
    const pixels = picture(width, height, () => [7, 130, 255]);
    const image = prepareImage(pixels, {width: 6, height: 4, dtype: 'float32'});
    close(image, Array.from({length: 24}, () => [7, 130, 255]).flat());
  }
});

test('smaller pictures hold means, not single pixels', () => {
  const stripes = picture(64, 64, (x) => (x % 2 ? [255, 0, 0] : [0, 255, 0]));
  const image = prepareImage(stripes, {width: 4, height: 4, dtype: 'float32'});
  image.forEach((value, index) => assert.ok(index % 3 === 2 || Math.abs(value - 127.5) < 5));
});

test('halves as Pillow does', () => { // Image.resize((2, 1), BILINEAR) of 4 x 2 pixels
  const pixels = picture(4, 2, (x) => [[0, 80, 160, 240][x], 0, 0]);
  const image = prepareImage(pixels, {width: 2, height: 1, dtype: 'float32'});
  close([image[0], image[3]], [57.1429, 182.8571], 1e-3);
});

test('takes the middle of a wide and of a high picture', () => {
  assert.deepEqual(middle(300, 100, {width: 10, height: 10}),
    {width: 100, height: 100, left: 100, top: 0});
  assert.deepEqual(middle(100, 300, {width: 20, height: 10}),
    {width: 100, height: 50, left: 0, top: 125});
  const sides = picture(90, 30, (x) => (x < 30 ? [255, 0, 0] : x < 60 ? [0, 0, 9] : [0, 99, 0]));
  const image = prepareImage(sides, {width: 2, height: 2, dtype: 'uint8'});
  assert.ok(image[2] > 5 && image[0] < 60);
});

test('uint8 is rounded', () => {
  const pixels = picture(2, 1, (x) => [x ? 255 : 0, 200, 3]);
  const image = prepareImage(pixels, {width: 1, height: 1, dtype: 'uint8'});
  assert.ok(image instanceof Uint8Array);
  assert.equal(image.length, 3);
  assert.deepEqual([image[1], image[2]], [200, 3]);
});

test('refuses pixels and types that do not fit', () => {
  const target = {width: 2, height: 2, dtype: 'float32'};
  const short = {data: new Uint8ClampedArray(3), width: 1, height: 1};
  assert.throws(() => prepareImage(short, target), /4 bytes.*Received: 3 bytes for 1 x 1/);
  const none = {data: new Uint8ClampedArray(0), width: 0, height: 0};
  assert.throws(() => prepareImage(none, target), /Received: 0 bytes for 0 x 0/);
  const grey = picture(2, 2, () => [1, 1, 1]);
  assert.throws(() => prepareImage(grey, {...target, dtype: 'int32'}), /Received: int32/);
});
