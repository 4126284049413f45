// A dynamic net in a browser or in Node.
//
//   const model = await DynamicModel.load(bytes, {wasm: 'node_modules/@litertjs/core/wasm/'});
//   const image = model.prepare(context.getImageData(0, 0, width, height));
//   const answer = await model.classify(image, {position: 0.5, deadline: 10});
//   answer.labelName, answer.ms, answer.exit, answer.openRate, answer.executedMacs

import {decisionNames, openRates, readAnswer, thresholdsAt} from './answer.mjs';
import {largestWithin, refineUntil, StepTimes} from './deadline.mjs';
import {prepareImage} from './image.mjs';
import {checkIdentifier, readReport} from './metadata.mjs';
import {Runner} from './runtime.mjs';
import {SignatureTable} from './signatures.mjs';

const WARMUP = 3; // timed runs through an anytime net's steps before its first use

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/**
 * A .tflite file of keras_dyngate.
 *
 * kind: "anytime" (better answers the longer it may take), "exits" (easy images leave early),
 *   "gated" (channels and layers are skipped), or "plain".
 * metadata: what the exporter wrote: labels, macs, thresholds, ...; {} for other files.
 * signatures: {name: {inputs, outputs}}, each {tensor: {dtype, shape}}.
 * input: {width, height, dtype} of the image.
 * steps: signatures of an anytime net, each with a better answer than the one before.
 * exits: how many there are, the net's own head included; 0 for other nets.
 */
export class DynamicModel {
  static async load(bytes, {now = () => performance.now(), ...options}) {
    checkIdentifier(bytes);
    const metadata = readReport(bytes);
    const model = new DynamicModel(await Runner.open(bytes, options), metadata, now);
    await model.warmUp();
    return model;
  }

  /** @param runner What runs signatures: a `Runner`, or a stand-in in tests. */
  constructor(runner, metadata, now) {
    const signatures = runner.signatures;
    Object.assign(this, {runner, metadata, now, signatures});
    const table = new SignatureTable(metadata.signatures, Object.keys(signatures));
    this.incremental = table.begins('step');
    this.steps = table.of(this.incremental ? 'step' : 'subnetwork');
    const [answer] = table.of('answer');
    const [answerAt] = table.of('answer_at');
    const [first] = this.steps.length ? this.steps : [answer];
    const {inputs, outputs} = signatures[first] ?? {inputs: {}, outputs: {}};
    const {image, ...others} = inputs;
    const shape = image?.shape;
    if (shape?.length !== 4 || shape[0] !== 1 || shape[3] !== 3 || Math.min(...shape) < 1 ||
        Object.keys(others).length || !(outputs.label || outputs.logits)) {
      throw new Error(
        'The file must classify pictures: a signature `classify`, `start` or ' +
          '`classify_k1` with the only input `image` of [1, height, width, 3]. Received: ' +
          `${describe(signatures)}.`);
    }
    this.input = {height: shape[1], width: shape[2], dtype: image.dtype};
    this.times = new StepTimes(this.steps.length);
    const gates = signatures[answerAt]?.inputs.thresholds?.shape[0] ?? 0;
    this.adjustable = gates > 0 && metadata.thresholds?.length === gates;
    this.exits = metadata.thresholds ? metadata.thresholds.length + 1 : 0;
    this.answer = this.adjustable ? answerAt : answer; // what `classify` runs
    this.witness = table.explains(this.answer);
    this.gated = decisionNames(signatures[this.witness]?.outputs ?? {}).length > 0;
  }

  get kind() {
    if (this.steps.length) return 'anytime';
    if (this.exits) return 'exits';
    return this.gated ? 'gated' : 'plain';
  }

  /** RGBA pixels as the net's input. */
  prepare(pixels) {
    return prepareImage(pixels, this.input);
  }

  /** Runs any signature once: typed arrays by name; `executed_macs` is thousands of MACs. */
  run(signature, inputs) {
    return this.runner.run(signature, inputs);
  }

  /** Time that all steps of an anytime net are expected to take, ms. */
  get fullMs() {
    const expected = this.steps.map((_, step) => this.times.expected(step));
    return this.incremental ? expected.reduce((a, b) => a + b, 0) : Math.max(...expected);
  }

  /**
   * What is in a picture.
   *
   * @param image From `prepare`.
   * @param options position: of the thresholds, 0 (leave at once) to 1 (never leave early),
   *   0.5: the file's own; deadline: of an anytime net, ms; repeats: `ms` is the median.
   */
  async classify(image, {position = 0.5, deadline = Infinity, repeats = 1} = {}) {
    if (this.steps.length) return this.withinDeadline(image, deadline);
    const inputs = {image};
    if (this.adjustable) inputs.thresholds = thresholdsAt(this.metadata.thresholds, position);
    const times = [];
    let outputs;
    for (let turn = 0; turn < repeats; turn++) {
      const begin = this.now();
      outputs = await this.run(this.answer, inputs);
      times.push(this.now() - begin);
    }
    const answer = {
      ...readAnswer(outputs, this.metadata, this.exits),
      ms: median(times),
      thresholds: this.adjustable ? [...inputs.thresholds] : this.metadata.thresholds ?? null,
    };
    if (!this.gated) return answer;
    return {...answer, ...openRates(await this.run(this.witness, inputs))};
  }

  async withinDeadline(image, deadline) {
    if (!(deadline >= 0)) {
      throw new Error(`The deadline must be 0 ms or more. Received: ${deadline}.`);
    }
    const run = (step, before) => this.runStep(step, before, image);
    const strategy = this.incremental ? refineUntil : largestWithin;
    const {answer, step, ...timing} =
      await strategy(run, this.times, deadline, this.now);
    const outputs = {...answer, executed_macs: answer.spent && [answer.spent]};
    const read = readAnswer(outputs, this.metadata);
    return {...read, ...timing, step: step + 1, steps: this.steps.length};
  }

  /** One step of an anytime net, going on from the answer of the one before, if any. */
  async runStep(step, before, image) {
    const known = {...before?.known, image};
    const outputs = await this.run(this.steps[step], known);
    const {label, logits, executed_macs: macs, ...carried} = outputs;
    const spent = (before?.spent ?? 0) + (macs?.[0] ?? 0); // thousands of MACs
    return {label, logits, spent, known: {...known, ...carried}};
  }

  /** Times an anytime net's steps on a blank image. */
  async warmUp() {
    if (!this.steps.length) return;
    const {width, height, dtype} = this.input;
    const blank = new {float32: Float32Array, uint8: Uint8Array}[dtype](width * height * 3);
    for (let turn = 0; turn <= WARMUP; turn++) {
      let answer;
      for (let step = 0; step < this.steps.length; step++) {
        const begin = this.now();
        const before = this.incremental ? answer : null;
        answer = await this.runStep(step, before, blank);
        if (turn) this.times.add(step, this.now() - begin); // the first turn was cold
      }
    }
  }

  delete() {
    this.runner.delete();
  }
}

function describe(signatures) {
  const lists = Object.entries(signatures).map(([name, {inputs}]) => {
    const tensors = Object.entries(inputs).map(
      ([tensor, {dtype, shape}]) => `${tensor}: ${dtype} [${shape.join(', ')}]`);
    return `${name}(${tensors.join(', ')})`;
  });
  return lists.join('; ') || 'no signatures';
}
