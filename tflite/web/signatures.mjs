// What each signature of a file is for.
//
// The exporter notes it in the metadata entry "signatures": a kind ("answer", "answer_at" by
// thresholds that it takes, "witness" and "witness_at" with every decision, "stage", "step",
// "subnetwork"), the `order` of the last three, from 1, and what an answer is `explained_by`.

const OTHER = {kind: 'other'};

/** Whether an entry of the metadata is such a table. */
export function isTable(value) {
  const isText = (text) => text === undefined || typeof text === 'string';
  return value?.constructor === Object && Object.values(value).every(
    (role) => typeof role?.kind === 'string' && isText(role.explained_by) &&
      isText(role.follows) &&
      (role.order === undefined || (Number.isInteger(role.order) && role.order > 0)));
}

/** For files of version 0.1.0, which have no table; nothing else looks at names. */
function byName(name) {
  const known = {
    classify: {kind: 'answer', explained_by: 'explain'},
    segment: {kind: 'answer', explained_by: 'explain'},
    explain: {kind: 'witness', explained_by: 'explain'},
    classify_at: {kind: 'answer_at', explained_by: 'explain_at'},
    explain_at: {kind: 'witness_at', explained_by: 'explain_at'},
    start: {kind: 'step', order: 1},
  };
  if (Object.hasOwn(known, name)) return known[name];
  const [, prefix, digits] = /^(stage_|step_|classify_k)0*([1-9]\d*)$/.exec(name) ?? [];
  const kind = {stage_: 'stage', step_: 'step', classify_k: 'subnetwork'}[prefix];
  return kind ? {kind, order: Number(digits)} : OTHER;
}

/** The roles of a file's signatures. */
export class SignatureTable {
  /** @param noted The entry of the metadata, if any. @param names Of the file's signatures. */
  constructor(noted, names) {
    this.roles = new Map(names.map((name) => {
      const known = noted ? Object.hasOwn(noted, name) && noted[name] : byName(name);
      return [name, known || OTHER];
    }));
  }

  /** Signatures of a kind by their number; those without come in the order of the file. */
  of(kind) {
    return [...this.roles.keys()]
      .filter((name) => this.roles.get(name).kind === kind)
      .sort((a, b) => (this.roles.get(a).order ?? 0) - (this.roles.get(b).order ?? 0));
  }

  /** Whether there is a first stage, step or sub-network. */
  begins(kind) {
    return this.of(kind).some((name) => this.roles.get(name).order === 1);
  }

  /** The signature that gives the same answer and its decisions, or undefined. */
  explains(name) {
    const witness = this.roles.get(name)?.explained_by;
    return this.roles.has(witness) ? witness : undefined;
  }
}
