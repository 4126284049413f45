// The smallest .tflite file with metadata, byte by byte.

const ENCODER = new TextEncoder();

/** @param text What the metadata holds. @param name Its name, of up to 15 characters. */
export function smallFile(text, {name = 'keras_dyngate', buffer = 1} = {}) {
  const data = ENCODER.encode(text);
  const bytes = new Uint8Array(120 + data.length);
  const view = new DataView(bytes.buffer);
  const uint16s = (at, ...values) =>
    values.forEach((value, index) => view.setUint16(at + 2 * index, value, true));
  const uint32s = (at, ...values) =>
    values.forEach((value, index) => view.setUint32(at + 4 * index, value, true));
  uint32s(0, 28);
  bytes.set(ENCODER.encode('TFL3'), 4);
  uint16s(8, 18, 12, 0, 0, 0, 0, 4, 0, 8); // vtable of Model: buffers, metadata
  uint32s(28, 28 - 8, 40 - 32, 52 - 36); // Model
  uint32s(40, 2, 88 - 44, 88 - 48); // its two buffers, the same twice
  uint32s(52, 1, 68 - 56); // its metadata
  uint16s(60, 8, 12, 4, 8); // vtable of Metadata: name, buffer
  uint32s(68, 68 - 60, 96 - 72, buffer); // Metadata
  uint16s(80, 6, 8, 4); // vtable of Buffer: data
  uint32s(88, 88 - 80, 116 - 92); // Buffer
  uint32s(96, name.length);
  bytes.set(ENCODER.encode(name), 100);
  uint32s(116, data.length);
  bytes.set(data, 120);
  return bytes;
}
