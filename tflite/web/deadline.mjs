// The best answer of an anytime net in a given time.
//
// How long a step takes is known from its last calls: the time that nine of ten kept. A step
// is started if it is expected to end before the deadline.

const HISTORY = 32;
const QUANTILE = 0.9;
const PATIENCE = 8; // times a step is left out, after which its longest time is forgotten

/** Times of the last calls of each step, in milliseconds. */
export class StepTimes {
  constructor(steps) {
    this.times = Array.from({length: steps}, () => []);
    this.leftOut = new Array(steps).fill(0);
  }

  add(step, ms) {
    const times = this.times[step];
    times.push(ms);
    if (times.length > HISTORY) times.shift();
  }

  /** 0 for a step that was never run: it is tried. */
  expected(step) {
    const sorted = [...this.times[step]].sort((a, b) => a - b);
    return sorted[Math.ceil(QUANTILE * sorted.length) - 1] ?? 0;
  }

  /** Whether a step is expected to end within the deadline. */
  fits(step, spent, deadline) {
    if (spent + this.expected(step) <= deadline) return true;
    this.leftOut[step] += 1;
    const times = this.times[step];
    if (this.leftOut[step] % PATIENCE === 0 && times.length > 1) {
      times.splice(times.indexOf(Math.max(...times)), 1);
    }
    return false;
  }
}

/**
 * Runs step after step, each going on from the one before, while the next one fits.
 *
 * The first step is run whatever the deadline; `inTime` tells whether it kept it. A later
 * answer that comes too late is not taken: then `overrun` is true.
 *
 * @param run async (step, answer before) => answer.
 * @returns {answer, step, ms, inTime, overrun}; `ms` is when the answer was there.
 */
export async function refineUntil(run, times, deadline, now) {
  const begin = now();
  let best = null;
  for (let step = 0; step < times.times.length; step++) {
    const before = now();
    if (best && !times.fits(step, before - begin, deadline)) break;
    const answer = await run(step, best?.answer);
    const after = now();
    times.add(step, after - before);
    if (best && after - begin > deadline) return {...best, overrun: true};
    const ms = after - begin;
    best = {answer, step, ms, inTime: ms <= deadline, overrun: false};
  }
  return best;
}

/** Runs the largest sub-network that fits alone; the smallest if none does. */
export async function largestWithin(run, times, deadline, now) {
  let step = times.times.length - 1;
  while (step > 0 && !times.fits(step, 0, deadline)) step -= 1;
  const before = now();
  const answer = await run(step);
  const ms = now() - before;
  times.add(step, ms);
  return {answer, step, ms, inTime: ms <= deadline, overrun: false};
}
