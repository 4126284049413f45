// From the tensors a signature gives to what one wants to know.

const MACS_UNIT = 1000; // the file's `executed_macs` counts thousands of MACs
const ANSWER = ['label', 'logits', 'score', 'exit', 'executed_macs'];
export const SURE = 1e30; // a threshold that no score reaches; with a minus, that every one does

/** Names of the outputs that tell which channels and layers were computed. */
export function decisionNames(outputs) {
  return Object.keys(outputs).filter((name) => !ANSWER.includes(name));
}

/** The likeliest class. One logit tells two: class 1 if it is above 0. */
export function labelOf(logits) {
  if (logits.length === 1) return Number(logits[0] > 0);
  return logits.indexOf(Math.max(...logits));
}

/** The probability of the likeliest class. */
export function topProbability(logits) {
  if (logits.length === 1) return 1 / (1 + Math.exp(-Math.abs(logits[0])));
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  return 1 / logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0);
}

/** Where an exit is, as the exporter noted it; null in files that do not say. */
function placeOf(exit, {exits}) {
  const noted = exits?.[exit];
  if (!noted) return null;
  const {name, after, macs, macs_share: share} = noted;
  return {name, after, macs, share};
}

/** "2 of 5, after b4_add, .45 of the MACs"; null for an answer of a net without exits. */
export function exitText({exit, place}, exits) {
  if (exit === null) return null;
  const text = `${exit + 1} of ${exits}`;
  if (!place) return text;
  const after = place.after === 'input' ? 'the input' : place.after;
  const where = after === null ? 'at the end' : `after ${after}`;
  return `${text}, ${where}, ${place.share.toFixed(2).replace(/^0/, '')} of the MACs`;
}

/**
 * What a signature's outputs say.
 *
 * `probability` is null at an early exit: scores of a gate are no logarithms of
 * probabilities. `place` tells of the exit taken: its name, the layer it is after ("input"
 * before the trunk, null at the end), the MACs from the image to there, and their share of
 * those to the end; null in files that do not say. `executedMacs` and `macs` are MACs, not thousands. `share` is of the plain
 * net's MACs, controllers included, so that a net that computes everything may have a little
 * over 1.
 */
export function readAnswer(outputs, metadata, exits = 0) {
  const label = outputs.label?.[0] ?? labelOf(outputs.logits);
  const exit = outputs.exit?.[0] ?? null;
  const early = exit !== null && exit < exits - 1;
  const executedMacs = outputs.executed_macs
    ? outputs.executed_macs[0] * MACS_UNIT : null;
  const macs = metadata.macs ?? null;
  return {
    label,
    labelName: metadata.labels?.[label] ?? null,
    probability: outputs.logits && !early ? topProbability(outputs.logits) : null,
    score: outputs.score?.[0] ?? null,
    exit,
    place: placeOf(exit, metadata),
    executedMacs,
    macs,
    share: executedMacs !== null && macs ? executedMacs / macs : null,
  };
}

/**
 * Which share of the gates of each block was open, and of all.
 *
 * A decision is open unless it is 0: bits of gated nets, saliences of LC-Nets. Channels of
 * a block whose layer is shut are not computed, whatever their gates say.
 */
export function openRates(outputs) {
  const blocks = {};
  for (const name of decisionNames(outputs)) {
    const cut = name.lastIndexOf('/');
    const [block, gate] = cut < 0 ? [name, ''] : [name.slice(0, cut), name.slice(cut + 1)];
    blocks[block] ??= {name: block, layer: null, channels: null};
    const open = Array.from(outputs[name], (value) => value !== 0);
    blocks[block][gate === 'layer' ? 'layer' : 'channels'] = open;
  }
  const inOrder = Object.values(blocks).sort(
    (a, b) => a.name.localeCompare(b.name, 'en', {numeric: true}));
  const rates = inOrder.map(({name, layer, channels}) => {
    const runs = layer?.[0] ?? true;
    const gates = channels ?? layer;
    return {name, open: runs ? gates.filter(Boolean).length : 0, gates: gates.length};
  });
  const sum = (key) => rates.reduce((total, block) => total + block[key], 0);
  return {openRate: rates.length ? sum('open') / sum('gates') : null, blocks: rates};
}

/**
 * Thresholds for one slider position.
 *
 * 0: every image leaves at the first exit; 0.5: the file's own thresholds; 1: none leaves
 * early. In between all exits move together, by a step that suits the thresholds' size.
 */
export function thresholdsAt(own, position) {
  if (!(position >= 0 && position <= 1)) {
    throw new Error(`The position must be from 0 to 1. Received: ${position}.`);
  }
  const finite = own.map(Math.abs).filter((size) => size < SURE);
  const unit = Math.max(0.2, ...finite) / 2;
  const shift = unit * Math.log(position / (1 - position));
  const clamped = (value) => Math.max(-SURE, Math.min(SURE, value));
  return Float32Array.from(own, (threshold) => clamped(threshold + shift));
}
