package org.kerasdyngate;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

/**
 * Times a file under sets of decisions, for a table of what each decision costs on a phone.
 *
 * <pre>
 * CostTrials trials = new CostTrials(json); // what keras_dyngate's Trials.save wrote
 * String times = trials.measure(model, plain, 5, false, Build.MODEL);
 * </pre>
 *
 * The file is one that was exported with decisions that the caller makes.
 */
public final class CostTrials {
    private static final String FORMAT = "keras_dyngate trials 1";
    private static final int FLUSHED = 64 << 20; // bytes written for cold caches
    private static final int PLAIN_PER_ROUND = 8;

    private static final AnytimeSteps.Clock CLOCK = new AnytimeSteps.Clock() {
        @Override
        public double ms() {
            return System.nanoTime() / 1e6;
        }
    };

    /** How many there are. */
    public final int count;

    private final String signature, fileSha256;
    private final List<ByteBuffer> held, thresholds;

    /** A signature and what goes into it. */
    private static final class Call {
        final SignatureModel model;
        final String signature;
        final Map<String, ByteBuffer> inputs = new HashMap<>();

        Call(SignatureModel model, String signature) {
            this.model = model;
            this.signature = signature;
            SignatureModel.Tensor image = model.inputs(signature).get("image");
            if (image == null)
                throw new IllegalArgumentException("`" + signature + "` must take an image."
                        + " Received: " + model.inputs(signature).keySet());
            inputs.put("image", noise(image));
        }

        void run() {
            model.run(signature, inputs);
        }
    }

    /** @param json The text of the file. */
    public CostTrials(String json) {
        Object parsed = Json.parse(json == null ? "null" : json);
        Map<?, ?> noted = parsed instanceof Map ? (Map<?, ?>) parsed : Collections.emptyMap();
        if (!FORMAT.equals(noted.get("format")))
            throw new IllegalArgumentException("The trials must have the format \"" + FORMAT
                    + "\". Received: " + noted.get("format"));
        signature = text(noted, "signature");
        fileSha256 = text(noted, "file_sha256");
        held = rows("held", noted.get("held"), true);
        count = held.size();
        Object limits = noted.get("thresholds");
        boolean none = limits == null && noted.containsKey("thresholds");
        thresholds = none ? Collections.nCopies(count, SignatureModel.buffer(0))
                : rows("thresholds", limits, false);
        if (count == 0 || thresholds.size() != count)
            throw new IllegalArgumentException("`held` and `thresholds` must be as many, 1 or more."
                    + " Received: " + count + " and " + thresholds.size());
    }

    private static String text(Map<?, ?> noted, String key) {
        Object found = noted.get(key);
        if (!(found instanceof String))
            throw new IllegalArgumentException(
                    "`" + key + "` must be a text. Received: " + found);
        return (String) found;
    }

    /** Rows of numbers, all as long, as a signature takes them: int32 or float32. */
    private static List<ByteBuffer> rows(String key, Object found, boolean decisions) {
        List<ByteBuffer> made = new ArrayList<>();
        if (!(found instanceof List))
            throw new IllegalArgumentException("`" + key + "` must be rows. Received: " + found);
        for (Object row : (List<?>) found) {
            List<?> numbers = row instanceof List ? (List<?>) row : Arrays.asList(row);
            ByteBuffer buffer = SignatureModel.buffer(4 * numbers.size());
            for (Object number : numbers) {
                double value = number instanceof Double ? (Double) number : Double.NaN;
                boolean fits = decisions ? value == -1 || value == 0 || value == 1
                        : Math.abs(value) <= Float.MAX_VALUE;
                if (!fits)
                    throw new IllegalArgumentException("`" + key + "` must hold "
                            + (decisions ? "-1, 0 and 1" : "numbers") + ". Received: " + number);
                if (decisions) buffer.putInt((int) value);
                else buffer.putFloat((float) value);
            }
            buffer.rewind();
            if (!made.isEmpty() && made.get(0).capacity() != buffer.capacity())
                throw new IllegalArgumentException("Rows of `" + key + "` must all be as long."
                        + " Received: " + made.get(0).capacity() / 4 + " and " + numbers.size());
            made.add(buffer);
        }
        return made;
    }

    /** Whole numbers from 0 to 255, the same ones every time. */
    private static ByteBuffer noise(SignatureModel.Tensor image) {
        Random random = new Random(0);
        ByteBuffer made = SignatureModel.buffer(image.bytes);
        while (made.hasRemaining())
            if (image.type == SignatureModel.FLOAT32) made.putFloat(random.nextInt(256));
            else made.put((byte) random.nextInt(256));
        made.rewind();
        return made;
    }

    /** The same with two models of an app. */
    public String measure(
            DynamicModel model, DynamicModel plain, int rounds, boolean cold, String device) {
        return measure(model == null ? null : model.model, plain == null ? null : plain.model,
                rounds, cold, device);
    }

    /**
     * Runs every trial in another order in every round; the fastest of its times counts.
     *
     * @param model The file that the trials are for.
     * @param plain The net without gates and exits, timed in between; null: none.
     * @param rounds 1 or more; 5 is usual.
     * @param cold Whether a call follows writes to 64 MB, and not one like itself.
     * @param device What to call this phone.
     * @return JSON, for keras_dyngate to fit a table of costs to.
     */
    public String measure(
            SignatureModel model, SignatureModel plain, int rounds, boolean cold, String device) {
        return measure(model, plain, rounds, cold, device, CLOCK);
    }

    String measure(SignatureModel model, SignatureModel plain, int rounds, boolean cold,
            String device, AnytimeSteps.Clock clock) {
        if (model == null || device == null)
            throw new IllegalArgumentException(
                    "`model` and `device` must be given. Received: null");
        if (rounds < 1)
            throw new IllegalArgumentException("`rounds` must be 1 or more. Received: " + rounds);
        Call call = new Call(model, signature);
        requireSize(model, "decisions", held.get(0));
        requireSize(model, "thresholds", thresholds.get(0));
        Call other = plain == null ? null : new Call(plain, answerOf(plain));
        byte[] heap = new byte[cold ? FLUSHED : 0];
        double[] best = new double[count];
        Arrays.fill(best, Double.POSITIVE_INFINITY);
        double whole = Double.POSITIVE_INFINITY;
        List<Integer> order = new ArrayList<>();
        for (int trial = 0; trial < count; trial++) order.add(trial);
        Random random = new Random(1);
        int apart = Math.max(1, count / PLAIN_PER_ROUND);
        feed(call, 0);
        call.run(); // the first call of all is like no other
        for (int round = 0; round < rounds; round++) {
            Collections.shuffle(order, random);
            for (int i = 0; i < count; i++) {
                int trial = order.get(i);
                feed(call, trial);
                best[trial] = Math.min(best[trial], time(call, heap, clock));
                if (other != null && i % apart == 0)
                    whole = Math.min(whole, time(other, heap, clock));
            }
        }
        return json(best, other == null ? "null" : String.valueOf(whole), model.threads, cold, device);
    }

    private void requireSize(SignatureModel model, String name, ByteBuffer row) {
        SignatureModel.Tensor tensor = model.inputs(signature).get(name);
        int bytes = tensor == null ? 0 : tensor.bytes;
        if (row.capacity() != bytes)
            throw new IllegalArgumentException("The trials must have " + bytes / 4 + " " + name
                    + " each, as the file takes. Received: " + row.capacity() / 4);
    }

    private void feed(Call call, int trial) {
        if (call.model.inputs(signature).containsKey("decisions"))
            call.inputs.put("decisions", held.get(trial));
        if (call.model.inputs(signature).containsKey("thresholds"))
            call.inputs.put("thresholds", thresholds.get(trial));
    }

    /** The first signature that answers; if the file notes none, the first. */
    private static String answerOf(SignatureModel model) {
        Metadata metadata = new Metadata(model.metadata("keras_dyngate"));
        String found = new SignatureTable(metadata.signatures, model.signatures()).first("answer");
        return found == null ? model.signatures().get(0) : found;
    }

    /** What a call takes in ms, more than nothing. */
    private static double time(Call call, byte[] heap, AnytimeSteps.Clock clock) {
        for (int i = 0; i < heap.length; i += 16) heap[i]++;
        if (heap.length == 0) call.run();
        double begin = clock.ms();
        call.run();
        return Math.max(1e-6, clock.ms() - begin);
    }

    private String json(double[] costs, String plain, int threads, boolean cold, String device) {
        StringBuilder made = new StringBuilder("{\"format\": \"keras_dyngate costs 1\", \"unit\": \"ms\"");
        made.append(", \"device\": ").append(quoted(device)).append(", \"threads\": ").append(threads);
        made.append(", \"cache\": ").append(cold ? "\"cold\"" : "\"warm\"");
        made.append(", \"file_sha256\": ").append(quoted(fileSha256));
        made.append(", \"costs\": ").append(Arrays.toString(costs));
        return made.append(", \"plain\": ").append(plain).append("}\n").toString();
    }

    /** What is not printed ASCII becomes '?'. */
    private static String quoted(String text) {
        StringBuilder made = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') made.append('\\');
            made.append(c < ' ' || c > '~' ? '?' : c);
        }
        return made.append('"').toString();
    }
}
