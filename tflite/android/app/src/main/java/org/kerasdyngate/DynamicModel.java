package org.kerasdyngate;

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumSet;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;

/**
 * An image classifier that keras_dyngate exported, in the terms of an app.
 *
 * <pre>
 * DynamicModel model = DynamicModel.open("libLiteRt.so", file, 2);
 * ByteBuffer image = model.image(argbPixels); // of model.width x model.height
 * Result result = model.steps(image, 30);
 * </pre>
 *
 * Threads may share a model; they wait for each other.
 */
public final class DynamicModel implements AutoCloseable {
    public enum Kind { PLAIN, GATED, EXITS, ANYTIME }

    private static final float FAR = 1e30f; // a threshold that nobody, or everybody, reaches
    private static final Set<String> ANSWER = new HashSet<>(
            Arrays.asList("label", "logits", "score", "exit", "executed_macs"));

    public final Kind kind;
    public final int width, height;
    /** Names of the classes; empty if the file has none. */
    public final List<String> labels;
    /** MACs of the whole net; 0 if the file does not say. */
    public final long wholeMacs;
    /** How many exits there are, the net's own head included; 0 for other nets. */
    public final int exits;

    /** What it runs on. */
    final SignatureModel model;

    private final AnytimeSteps.Clock clock;
    private final AnytimeSteps steps;
    private final SignatureModel.Tensor image;
    private final float[] thresholds;
    private final List<ExitPlace> places;
    private final String answer, answerAt, witness; // signatures, or null
    private final TreeMap<Integer, String> stages;
    private final Set<Mode> modes = EnumSet.of(Mode.CLASSIFY);

    /** Opens a file; the arguments are those of SignatureModel. */
    public static DynamicModel open(String library, ByteBuffer file, int threads) {
        SignatureModel model = new SignatureModel(library, file, threads);
        try {
            return new DynamicModel(model, new AnytimeSteps.Clock() {
                @Override
                public double ms() {
                    return System.nanoTime() / 1e6;
                }
            });
        } catch (RuntimeException unsuitable) {
            model.close();
            throw unsuitable;
        }
    }

    /** Takes the model over: `close` closes it. */
    DynamicModel(SignatureModel model, AnytimeSteps.Clock clock) {
        this.model = model;
        this.clock = clock;
        Metadata metadata = new Metadata(model.metadata("keras_dyngate"));
        SignatureTable table = new SignatureTable(metadata.signatures, model.signatures());
        answer = table.first("answer");
        answerAt = table.first("answer_at");
        witness = table.explains(answer);
        stages = table.numbered("stage");
        image = imageOf(model, answer);
        height = image.shape()[1];
        width = image.shape()[2];
        labels = metadata.labels;
        wholeMacs = metadata.macs;
        places = metadata.exits;

        boolean anytime = !AnytimeSteps.namesIn(table).isEmpty();
        ByteBuffer blank = SignatureModel.buffer(image.bytes);
        steps = anytime ? new AnytimeSteps(model, table, clock, blank) : null;
        boolean at = answerAt != null;
        thresholds = new float[at ? model.inputs(answerAt).get("thresholds").bytes / 4 : 0];
        exits = at ? thresholds.length + 1 : 0;
        for (int i = 0; i < Math.min(thresholds.length, metadata.thresholds.size()); i++)
            thresholds[i] = metadata.thresholds.get(i).floatValue();
        boolean gates = witness != null && !ANSWER.containsAll(model.outputs(witness).keySet());
        if (gates) modes.add(Mode.EXPLAIN);
        if (at) modes.add(Mode.CLASSIFY_AT);
        if (at && stages.size() == exits) modes.add(Mode.STAGES);
        if (anytime) modes.add(Mode.STEPS);
        kind = anytime ? Kind.ANYTIME : at ? Kind.EXITS : gates ? Kind.GATED : Kind.PLAIN;
    }

    private static SignatureModel.Tensor imageOf(SignatureModel model, String answer) {
        if (answer == null)
            throw new IllegalArgumentException("The file must have a signature that labels an image."
                    + " Received: signatures " + model.signatures());
        SignatureModel.Tensor image = model.inputs(answer).get("image");
        SignatureModel.Tensor label = model.outputs(answer).get("label");
        int[] shape = image == null ? new int[0] : image.shape();
        if (shape.length != 4 || shape[0] != 1 || shape[3] != 3 || label == null || label.bytes != 4
                || image.type == SignatureModel.INT32 || model.inputs(answer).size() != 1)
            throw new IllegalArgumentException("The file must label one image [1, height, width, 3]"
                    + " at a time. Received: inputs " + model.inputs(answer).keySet()
                    + ", an image of " + Arrays.toString(shape));
        return image;
    }

    /** What this file can do. */
    public Set<Mode> modes() {
        return Collections.unmodifiableSet(modes);
    }

    /** An input from pixels as Bitmap.getPixels gives them, row by row; alpha is left out. */
    public ByteBuffer image(int[] argb) {
        if (argb == null || argb.length != width * height)
            throw new IllegalArgumentException("`argb` must have " + width + " x " + height
                    + " pixels. Received: " + (argb == null ? "null" : argb.length));
        ByteBuffer made = SignatureModel.buffer(image.bytes);
        for (int pixel : argb)
            for (int shift = 16; shift >= 0; shift -= 8) {
                int value = pixel >> shift & 0xff;
                if (image.type == SignatureModel.FLOAT32) made.putFloat(value);
                else made.put((byte) value);
            }
        made.rewind();
        return made;
    }

    /**
     * Thresholds for a slider from 0 to 1: at 0 all images leave at the first exit, at 0.5 the
     * thresholds are the file's own, at 1 no image leaves before the end.
     */
    public float[] thresholdsAt(double position) {
        requirePosition(position);
        double scale = 0.1;
        for (float own : thresholds)
            if (Math.abs(own) < FAR) scale = Math.max(scale, Math.abs(own));
        float[] found = new float[thresholds.length];
        for (int i = 0; i < found.length; i++) {
            double moved = thresholds[i] + scale / 2 * Math.log(position / (1 - position));
            found[i] = (float) Math.max(-FAR, Math.min(FAR, moved));
        }
        return found;
    }

    /** A deadline, ms, for a slider from 0 to 1: at 1 none, below up to 1.25 times all steps. */
    public double deadlineAt(double position) {
        requirePosition(position);
        return position == 1 ? Double.POSITIVE_INFINITY : 1.25 * position * steps().fullMs();
    }

    private static void requirePosition(double position) {
        if (!(position >= 0 && position <= 1))
            throw new IllegalArgumentException(
                    "`position` must be from 0 to 1. Received: " + position);
    }

    /** Runs it in one of its `modes`; `position` is that of a slider, if the mode takes one. */
    public Result run(Mode mode, ByteBuffer image, double position) {
        if (mode == null || !modes.contains(mode))
            throw new IllegalArgumentException(
                    "`mode` must be one of " + modes + ". Received: " + mode);
        if (mode == Mode.STEPS) return steps(image, deadlineAt(position));
        if (mode == Mode.STAGES) return stages(image, thresholdsAt(position));
        if (mode == Mode.CLASSIFY_AT) return classify(image, thresholdsAt(position));
        return call(mode == Mode.EXPLAIN ? witness : answer, Collections.singletonMap("image", image));
    }

    /** With thresholds for the exits, as many as the file has gates. */
    public Result classify(ByteBuffer image, float[] thresholds) {
        requireThresholds(thresholds);
        ByteBuffer limits = SignatureModel.buffer(4 * thresholds.length);
        limits.asFloatBuffer().put(thresholds);
        Map<String, ByteBuffer> inputs = new HashMap<>();
        inputs.put("image", image);
        inputs.put("thresholds", limits);
        return call(answerAt, inputs);
    }

    private void requireThresholds(float[] found) {
        if (found == null || found.length != thresholds.length || thresholds.length == 0)
            throw new IllegalArgumentException("`thresholds` must be one per gate, "
                    + thresholds.length + ". Received: " + Arrays.toString(found));
    }

    /** The best answer within a deadline; the first one whatever the deadline. */
    public Result steps(ByteBuffer image, double deadlineMs) {
        if (!(deadlineMs >= 0))
            throw new IllegalArgumentException(
                    "`deadlineMs` must be 0 or more. Received: " + deadlineMs);
        AnytimeSteps.Answer found = steps().run(image, deadlineMs);
        return result(found.outputs, found.ms, -1, found.step, found.late, Double.NaN,
                found.thousandMacs);
    }

    private AnytimeSteps steps() {
        if (steps == null)
            throw new IllegalStateException(
                    "The file must be of an anytime net. Received: " + kind);
        return steps;
    }

    /** Runs stage after stage until a score reaches its threshold. */
    public Result stages(ByteBuffer image, float[] thresholds) {
        requireThresholds(thresholds);
        double begin = clock.ms();
        long thousands = 0;
        Map<String, ByteBuffer> known = new HashMap<>();
        known.put("image", image); // which a stage behind a first net takes too
        for (int exit = 0; ; exit++) {
            String stage = stages.get(exit + 1);
            Map<String, ByteBuffer> inputs = new HashMap<>(known);
            inputs.keySet().retainAll(model.inputs(stage).keySet());
            Map<String, ByteBuffer> found = model.run(stage, inputs);
            thousands += found.get("executed_macs").getInt(0);
            if (exit == thresholds.length || found.get("score").getFloat(0) >= thresholds[exit])
                return result(found, clock.ms() - begin, exit, 0, false, Double.NaN, thousands);
            known.putAll(found);
        }
    }

    private Result call(String signature, Map<String, ByteBuffer> inputs) {
        double begin = clock.ms();
        Map<String, ByteBuffer> found = model.run(signature, inputs);
        double ms = clock.ms() - begin;
        ByteBuffer exit = found.get("exit");
        long thousands = found.get("executed_macs").getInt(0);
        int taken = exit == null ? -1 : exit.getInt(0);
        double rate = signature.equals(witness) ? openRate(found) : Double.NaN;
        return result(found, ms, taken, 0, false, rate, thousands);
    }

    private Result result(Map<String, ByteBuffer> outputs, double ms, int exit, int step,
            boolean late, double openRate, long thousands) {
        int label = outputs.get("label").getInt(0);
        boolean named = label >= 0 && label < labels.size();
        String name = named ? labels.get(label) : "class " + label;
        ExitPlace place = exit >= 0 && exit < places.size() ? places.get(exit) : null;
        return new Result(label, name, ms, exit, place, step, late, openRate, 1000 * thousands,
                wholeMacs);
    }

    /** Share of the decisions that are above 0: bytes, or weights in float32. */
    private double openRate(Map<String, ByteBuffer> outputs) {
        int open = 0, all = 0;
        for (SignatureModel.Tensor tensor : model.outputs(witness).values()) {
            if (ANSWER.contains(tensor.name)) continue;
            ByteBuffer decisions = outputs.get(tensor.name);
            boolean bytes = tensor.type == SignatureModel.UINT8;
            for (; decisions.hasRemaining(); all++)
                if ((bytes ? decisions.get() : decisions.getFloat()) > 0) open++;
        }
        return (double) open / all;
    }

    @Override
    public void close() {
        model.close();
    }
}
