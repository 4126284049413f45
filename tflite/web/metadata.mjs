// What the exporter wrote into a .tflite file, read straight from its bytes.
//
// A .tflite file is a flatbuffer: tables whose fields are found through a vtable. All that is
// followed here is Model.metadata -> (name, buffer) and Model.buffers -> data. Every offset
// is checked against the length of the file, so that no file can do worse than be refused.

import {isTable} from './signatures.mjs';

const IDENTIFIER = 'TFL3';
const MODEL = {buffers: 4, metadata: 6}; // numbers of fields in LiteRT's schema
const ENTRY = {name: 0, buffer: 1};
const BUFFER = {data: 0};

const arrayOf = (type) => (value) =>
  Array.isArray(value) && value.every((item) => typeof item === type);
const isPlace = ({name, after, macs, macs_share: share}) =>
  typeof name === 'string' && (after === null || typeof after === 'string') &&
  typeof macs === 'number' && typeof share === 'number';
const FIELDS = { // of the report; the others are only handed on
  labels: {fits: arrayOf('string'), what: 'a list of texts'},
  thresholds: {fits: arrayOf('number'), what: 'a list of numbers'},
  exits: {
    fits: (value) => Array.isArray(value) && value.every((item) => isPlace(item ?? {})),
    what: 'a list of name, after, macs and macs_share',
  },
  signatures: {fits: isTable, what: 'roles by name: kind, order, follows, explained_by'},
  macs: {fits: (value) => value > 0 && typeof value === 'number', what: 'above 0'},
};

class Flatbuffer {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** `at` if `size` bytes from there are in the file. */
  checked(at, size) {
    if (at < 0 || at + size > this.bytes.length) {
      throw new Error(
        'The file must be a whole .tflite file. ' +
          `Received: ${this.bytes.length} bytes, with an offset to byte ${at}.`);
    }
    return at;
  }

  uint16(at) {
    return this.view.getUint16(this.checked(at, 2), true);
  }

  uint32(at) {
    return this.view.getUint32(this.checked(at, 4), true);
  }

  /** Where the offset at `at` leads. */
  follow(at) {
    return at + this.uint32(at);
  }

  /** Where a field of a table is, or null if the table lacks it. */
  field(table, number) {
    const vtable = table - this.view.getInt32(this.checked(table, 4), true);
    const entry = 4 + 2 * number;
    if (entry + 2 > this.uint16(vtable)) return null;
    const offset = this.uint16(vtable + entry);
    return offset ? table + offset : null;
  }

  /** Start and length of a vector field whose elements have `size` bytes. */
  vector(table, number, size) {
    const field = this.field(table, number);
    if (field === null) return {start: 0, length: 0};
    const at = this.follow(field);
    const length = this.uint32(at);
    return {start: this.checked(at + 4, length * size), length};
  }

  byteVector(table, number) {
    const {start, length} = this.vector(table, number, 1);
    return this.bytes.subarray(start, start + length);
  }

  /** Tables of a vector field. */
  *tables(table, number) {
    const {start, length} = this.vector(table, number, 4);
    for (let index = 0; index < length; index++) yield this.follow(start + 4 * index);
  }
}

function sameText(bytes, text) {
  return bytes.length === text.length && new TextDecoder().decode(bytes) === text;
}

/** Refuses bytes that do not even say that they are a .tflite file. */
export function checkIdentifier(bytes) {
  if (!sameText(bytes.subarray(4, 8), IDENTIFIER)) {
    throw new Error(
      `The file must be a .tflite file, with ${IDENTIFIER} at byte 4. ` +
        `Received: ${bytes.length} bytes without it.`);
  }
}

/** The bytes that a .tflite file holds under a name, or null. */
export function readMetadata(bytes, name) {
  checkIdentifier(bytes);
  const file = new Flatbuffer(bytes);
  const model = file.follow(0);
  for (const entry of file.tables(model, MODEL.metadata)) {
    if (!sameText(file.byteVector(entry, ENTRY.name), name)) continue;
    const field = file.field(entry, ENTRY.buffer);
    const index = field === null ? 0 : file.uint32(field);
    const {start, length} = file.vector(model, MODEL.buffers, 4);
    if (index >= length) {
      throw new Error(
        `Metadata must be in one of the file's ${length} buffers. ` +
          `Received: buffer ${index}.`);
    }
    return file.byteVector(file.follow(start + 4 * index), BUFFER.data);
  }
  return null;
}

/** The JSON object that `export_tflite` writes; {} for a file from elsewhere. */
export function readReport(bytes) {
  const found = readMetadata(bytes, 'keras_dyngate');
  if (found === null) return {};
  let report;
  try {
    report = JSON.parse(new TextDecoder('utf-8', {fatal: true}).decode(found));
  } catch (error) {
    throw new Error(`Metadata "keras_dyngate" must be JSON. Received: ${error.message}.`);
  }
  if (report === null || typeof report !== 'object' || Array.isArray(report)) {
    throw new Error('Metadata "keras_dyngate" must be a JSON object. ' +
      `Received: ${JSON.stringify(report).slice(0, 60)}.`);
  }
  for (const [key, {fits, what}] of Object.entries(FIELDS)) {
    const value = report[key] ?? null;
    if (value !== null && !fits(value)) {
      throw new Error(`"${key}" in metadata "keras_dyngate" must be ${what}. ` +
        `Received: ${JSON.stringify(value).slice(0, 60)}.`);
    }
  }
  return report;
}
