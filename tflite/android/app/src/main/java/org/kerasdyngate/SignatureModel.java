package org.kerasdyngate;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.Charset;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Runs a .tflite file by signature, over LiteRT's C API.
 *
 * <pre>
 * System.loadLibrary("dyngate_jni");
 * try (SignatureModel model = new SignatureModel("libLiteRt.so", file, 2)) {
 *     int label = model.run("classify", Collections.singletonMap("image", image))
 *             .get("label").getInt(0);
 * }
 * </pre>
 *
 * Plain Java: the same class runs on Android and on a desktop. Threads may share a model; they
 * wait for each other.
 */
public final class SignatureModel implements AutoCloseable {
    public static final int FLOAT32 = 1, INT32 = 2, UINT8 = 3;

    private static final Charset UTF_8 = Charset.forName("UTF-8");

    /** What goes into or comes out of a signature. */
    public static final class Tensor {
        public final String name;
        /** FLOAT32, INT32 or UINT8. */
        public final int type;
        public final int bytes;
        private final int[] shape;

        private Tensor(String name, int[] layout) {
            this.name = name;
            type = layout[0];
            bytes = layout[1];
            shape = new int[layout.length - 2];
            System.arraycopy(layout, 2, shape, 0, shape.length);
        }

        public int[] shape() {
            return shape.clone();
        }
    }

    private static final class Signature {
        final int index;
        final Map<String, Tensor> inputs, outputs;

        Signature(long handle, int index) {
            this.index = index;
            inputs = tensors(handle, index, false);
            outputs = tensors(handle, index, true);
        }

        private static Map<String, Tensor> tensors(long handle, int signature, boolean output) {
            Map<String, Tensor> found = new LinkedHashMap<>();
            for (int i = 0; i < tensorCount(handle, signature, output); i++) {
                String name = new String(tensorName(handle, signature, output, i), UTF_8);
                Tensor tensor = new Tensor(name, tensorLayout(handle, signature, output, i));
                if (found.put(name, tensor) != null)
                    throw new IllegalArgumentException(
                            "Tensors of a signature must differ in name. Received: two " + name);
            }
            return Collections.unmodifiableMap(found);
        }
    }

    /** For the kernels. */
    public final int threads;

    private final Map<String, Signature> signatures = new LinkedHashMap<>();
    private long handle;

    /**
     * @param library LiteRT: a path, or a name that the system's linker finds.
     * @param model The whole file, in a direct buffer; it is copied.
     * @param threads For the kernels, 1 or more.
     */
    public SignatureModel(String library, ByteBuffer model, int threads) {
        if (library == null || library.isEmpty())
            throw new IllegalArgumentException("`library` must name a file. Received: " + library);
        if (threads < 1)
            throw new IllegalArgumentException("`threads` must be 1 or more. Received: " + threads);
        requireDirect("model", model);
        this.threads = threads;
        handle = open(library.getBytes(UTF_8), model, model.position(), model.remaining(), threads);
        try {
            for (int i = 0; i < signatureCount(handle); i++) {
                String name = new String(signatureName(handle, i), UTF_8);
                signatures.put(name, new Signature(handle, i));
            }
        } catch (RuntimeException broken) {
            close();
            throw broken;
        }
    }

    public List<String> signatures() {
        return new ArrayList<>(signatures.keySet());
    }

    /** By name, in the order of the file. */
    public Map<String, Tensor> inputs(String signature) {
        return find(signature).inputs;
    }

    /** By name, in the order of the file. */
    public Map<String, Tensor> outputs(String signature) {
        return find(signature).outputs;
    }

    /** A metadata entry of the file, or null if it has none of this name. */
    public synchronized byte[] metadata(String name) {
        requireOpen();
        return metadata(handle, name == null ? null : name.getBytes(UTF_8));
    }

    /**
     * Runs a signature.
     *
     * @param inputs All its inputs, by name, in direct buffers: from position to limit.
     * @return All its outputs, by name, in new direct buffers that can be inputs again; as in the
     *     file, so that "executed_macs" are thousands of MACs.
     */
    public synchronized Map<String, ByteBuffer> run(
            String signature, Map<String, ByteBuffer> inputs) {
        requireOpen();
        Signature called = find(signature);
        if (inputs == null || !inputs.keySet().equals(called.inputs.keySet()))
            throw new IllegalArgumentException("`inputs` of " + signature + " must be "
                    + called.inputs.keySet() + ". Received: "
                    + (inputs == null ? "null" : inputs.keySet().toString()));
        int index = 0;
        for (Tensor tensor : called.inputs.values()) {
            ByteBuffer data = inputs.get(tensor.name);
            requireDirect(tensor.name, data);
            if (data.remaining() != tensor.bytes)
                throw new IllegalArgumentException("`" + tensor.name + "` must have " + tensor.bytes
                        + " bytes. Received: " + data.remaining());
            write(handle, called.index, index++, data, data.position(), data.remaining());
        }
        invoke(handle, called.index);
        Map<String, ByteBuffer> found = new LinkedHashMap<>();
        index = 0;
        for (Tensor tensor : called.outputs.values()) {
            ByteBuffer data = buffer(tensor.bytes);
            read(handle, called.index, index++, data, 0, tensor.bytes);
            found.put(tensor.name, data);
        }
        return found;
    }

    /** A new direct buffer in the byte order of the machine. */
    public static ByteBuffer buffer(int bytes) {
        return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
    }

    @Override
    public synchronized void close() {
        long last = handle;
        handle = 0;
        if (last != 0) close(last);
    }

    private Signature find(String name) {
        Signature found = signatures.get(name);
        if (found == null)
            throw new IllegalArgumentException("`signature` must be one of " + signatures.keySet()
                    + ". Received: " + name);
        return found;
    }

    private void requireOpen() {
        if (handle == 0)
            throw new IllegalStateException("The model must be open. Received: a closed one");
    }

    private static void requireDirect(String name, ByteBuffer data) {
        if (data == null || !data.isDirect())
            throw new IllegalArgumentException("`" + name + "` must be a direct buffer. Received: "
                    + (data == null ? "null" : "one on the heap"));
    }

    private static native long open(
            byte[] library, ByteBuffer model, int offset, int size, int threads);

    private static native void close(long handle);

    private static native int signatureCount(long handle);

    private static native byte[] signatureName(long handle, int signature);

    private static native int tensorCount(long handle, int signature, boolean output);

    private static native byte[] tensorName(long handle, int signature, boolean output, int index);

    private static native int[] tensorLayout(long handle, int signature, boolean output, int index);

    private static native byte[] metadata(long handle, byte[] name);

    private static native void write(
            long handle, int signature, int input, ByteBuffer data, int offset, int size);

    private static native void invoke(long handle, int signature);

    private static native void read(
            long handle, int signature, int output, ByteBuffer data, int offset, int size);
}
