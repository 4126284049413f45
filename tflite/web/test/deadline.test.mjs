import assert from 'node:assert/strict';
import {test} from 'node:test';

import {largestWithin, refineUntil, StepTimes} from '../deadline.mjs';

/** Steps that take given times of a clock that only they move. */
function world(durations) {
  let clock = 0;
  const ran = [];
  return {
    ran,
    durations,
    now: () => clock,
    run: async (step, before) => {
      ran.push(step);
      clock += durations[step];
      return `${before ?? ''}${step}`;
    },
  };
}

function timed(expected) {
  const times = new StepTimes(expected.length);
  expected.forEach((ms, step) => times.add(step, ms));
  return times;
}

test('expects what nine of ten calls kept, of the last 32', () => {
  const times = new StepTimes(1);
  assert.equal(times.expected(0), 0);
  for (let ms = 1; ms <= 100; ms++) times.add(0, ms);
  assert.equal(times.expected(0), 97); // of 69 to 100
});

test('runs all steps without a deadline, each on the one before', async () => {
  const {run, now} = world([1, 2, 3]);
  const found = await refineUntil(run, timed([1, 2, 3]), Infinity, now);
  assert.deepEqual(found, {answer: '012', step: 2, ms: 6, inTime: true, overrun: false});
});

test('starts a step only if it is expected to fit', async () => {
  for (const [deadline, last] of [[0, 0], [2.9, 0], [3, 1], [5.9, 1], [6, 2]]) {
    const {run, now, ran} = world([1, 2, 3]);
    const found = await refineUntil(run, timed([1, 2, 3]), deadline, now);
    assert.equal(found.step, last);
    assert.equal(ran.length, last + 1);
    assert.equal(found.inTime, deadline >= 1);
  }
});

test('keeps the answer before when a step comes too late', async () => {
  const {run, now, ran} = world([1, 50, 1]);
  const times = timed([1, 2, 1]);
  const found = await refineUntil(run, times, 10, now);
  assert.deepEqual(found, {answer: '0', step: 0, ms: 1, inTime: true, overrun: true});
  assert.deepEqual(ran, [0, 1]);
  assert.equal(times.expected(1), 50);
});

test('tries a step anew after it was left out for long', async () => {
  const times = timed([1, 2]);
  times.add(1, 500); // once it was slow
  const {run, now, ran} = world([1, 2]);
  let calls = 0;
  while (!ran.includes(1)) {
    await refineUntil(run, times, 10, now);
    assert.ok(++calls < 20);
  }
  assert.equal(calls, 9);
});

test('runs only the largest sub-network that fits', async () => {
  for (const [deadline, step] of [[0.5, 0], [1, 0], [2, 1], [100, 2]]) {
    const {run, now, ran} = world([1, 2, 4]);
    const found = await largestWithin(run, timed([1, 2, 4]), deadline, now);
    assert.deepEqual(ran, [step]);
    assert.equal(found.answer, `${step}`);
    assert.equal(found.inTime, deadline >= 1);
  }
});
