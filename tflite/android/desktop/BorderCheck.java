package org.kerasdyngate;

import static org.kerasdyngate.Checks.check;
import static org.kerasdyngate.Checks.refused;

import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.ByteBuffer;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;

/** SignatureModel, and the native functions below it, with wrong arguments. */
final class BorderCheck {
    private static final Class<IllegalArgumentException> ARGUMENT = IllegalArgumentException.class;
    private static final Class<IllegalStateException> STATE = IllegalStateException.class;

    static void run(String library, ByteBuffer file) throws Exception {
        refused(ARGUMENT, "library", () -> new SignatureModel(null, file, 1));
        refused(ARGUMENT, "no LiteRT", () -> new SignatureModel("/no/lib\u00e9.so", file, 1));
        refused(ARGUMENT, "threads", () -> new SignatureModel(library, file, 0));
        refused(ARGUMENT, "null", () -> new SignatureModel(library, null, 1));
        refused(ARGUMENT, "on the heap",
                () -> new SignatureModel(library, ByteBuffer.allocate(9), 1));
        for (int size : new int[] {0, 7, 8, 100, file.capacity() / 2, file.capacity() - 4096}) {
            ByteBuffer cut = file.duplicate();
            cut.limit(size);
            refused(ARGUMENT, size < 8 ? "no .tflite" : "",
                    () -> new SignatureModel(library, cut, 1));
        }

        SignatureModel model = new SignatureModel(library, file, 1);
        int bytes = model.inputs("classify").get("image").bytes;
        ByteBuffer image = SignatureModel.buffer(bytes);
        refused(ARGUMENT, "must be one of", () -> model.run("guess", one("image", image)));
        refused(ARGUMENT, "must be one of", () -> model.run(null, one("image", image)));
        refused(ARGUMENT, "must be one of", () -> model.outputs("guess"));
        refused(ARGUMENT, "must be [image]", () -> model.run("classify", null));
        refused(ARGUMENT, "must be [image]", () -> model.run("classify", one("picture", image)));
        Map<String, ByteBuffer> two = new HashMap<>(one("image", image));
        two.put("more", image);
        refused(ARGUMENT, "must be [image]", () -> model.run("classify", two));
        refused(ARGUMENT, "null", () -> model.run("classify", one("image", null)));
        refused(ARGUMENT, "on the heap",
                () -> model.run("classify", one("image", ByteBuffer.allocate(bytes))));
        refused(ARGUMENT, bytes + " bytes",
                () -> model.run("classify", one("image", SignatureModel.buffer(bytes + 4))));
        refused(ARGUMENT, "`name`", () -> model.metadata(null));
        check(model.metadata("none") == null, "no such metadata");
        check(model.run("classify", one("image", image.asReadOnlyBuffer())).size() > 2,
                "a read-only input, after all those errors");
        natives(model, library, image);

        model.close();
        model.close();
        refused(STATE, "closed", () -> model.run("classify", one("image", image)));
        refused(STATE, "closed", () -> model.metadata("keras_dyngate"));
    }

    private static Map<String, ByteBuffer> one(String name, ByteBuffer value) {
        return Collections.singletonMap(name, value);
    }

    /** Past the checks in Java: the C functions refuse what they must not touch. */
    private static void natives(SignatureModel model, String library, ByteBuffer image)
            throws Exception {
        Field field = SignatureModel.class.getDeclaredField("handle");
        field.setAccessible(true);
        long open = field.getLong(model);
        int size = image.capacity();
        ByteBuffer heap = ByteBuffer.allocate(size);
        byte[] path = library.getBytes("UTF-8");
        refused(ARGUMENT, "library", () -> call("open", null, image, 0, size, 1));
        refused(ARGUMENT, "direct", () -> call("open", path, null, 0, size, 1));
        refused(ARGUMENT, "direct", () -> call("open", path, heap, 0, size, 1));
        refused(ARGUMENT, "range", () -> call("open", path, image, 0, size + 1, 1));
        refused(ARGUMENT, "range", () -> call("open", path, image, -1, size, 1));
        refused(ARGUMENT, "range", () -> call("open", path, image, Integer.MAX_VALUE, size, 1));
        refused(ARGUMENT, "threads", () -> call("open", path, image, 0, size, -1));
        for (int index : new int[] {-1, 99, Integer.MIN_VALUE}) {
            refused(ARGUMENT, "signature", () -> call("signatureName", open, index));
            refused(ARGUMENT, "signature", () -> call("tensorCount", open, index, true));
            refused(ARGUMENT, "tensor", () -> call("tensorName", open, 0, false, index));
            refused(ARGUMENT, "tensor", () -> call("tensorLayout", open, index, true, 0));
            refused(ARGUMENT, "tensor", () -> call("write", open, 0, index, image, 0, size));
            refused(ARGUMENT, "tensor", () -> call("read", open, index, 0, image, 0, size));
            refused(STATE, "signature", () -> call("invoke", open, index));
        }
        for (String name : new String[] {"write", "read"}) {
            refused(ARGUMENT, "direct", () -> call(name, open, 0, 0, null, 0, size));
            refused(ARGUMENT, "direct", () -> call(name, open, 0, 0, heap, 0, size));
            refused(ARGUMENT, "range", () -> call(name, open, 0, 0, image, 1, size));
            refused(ARGUMENT, "range", () -> call(name, open, 0, 0, image, 0, -1));
            refused(ARGUMENT, "bytes", () -> call(name, open, 0, 0, image, 0, 1));
            refused(STATE, "closed", () -> call(name, 0L, 0, 0, image, 0, size));
        }
        refused(STATE, "closed", () -> call("signatureCount", 0L));
        refused(STATE, "closed", () -> call("signatureName", 0L, 0));
        refused(STATE, "closed", () -> call("tensorCount", 0L, 0, true));
        refused(STATE, "closed", () -> call("tensorName", 0L, 0, true, 0));
        refused(STATE, "closed", () -> call("tensorLayout", 0L, 0, true, 0));
        refused(STATE, "closed", () -> call("metadata", 0L, path));
        refused(STATE, "closed", () -> call("invoke", 0L, 0));
        call("close", 0L);
    }

    private static Object call(String name, Object... arguments) throws Exception {
        for (Method method : SignatureModel.class.getDeclaredMethods())
            if (method.getName().equals(name) && Modifier.isNative(method.getModifiers())) {
                method.setAccessible(true);
                try {
                    return method.invoke(null, arguments);
                } catch (InvocationTargetException thrown) {
                    throw (Exception) thrown.getCause();
                }
            }
        throw new NoSuchMethodException(name);
    }
}
