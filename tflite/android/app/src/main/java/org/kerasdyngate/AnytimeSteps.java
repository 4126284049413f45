package org.kerasdyngate;

import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;

/**
 * The best answer of an anytime net within a deadline.
 *
 * A file with steps goes on from step to step: the next one starts only if its expected time
 * fits. One with sub-networks alone runs the largest of them that fits.
 * A step is expected to take what nine of ten of its last calls kept; one that is left out again
 * and again forgets its longest times, one by one. Threads wait for each other, a run for a whole
 * run.
 */
final class AnytimeSteps {
    interface Clock {
        double ms();
    }

    static final class Answer {
        final int step;
        final Map<String, ByteBuffer> outputs;
        final double ms;
        boolean late;
        long thousandMacs; // as in the file

        Answer(int step, Map<String, ByteBuffer> outputs, double ms) {
            this.step = step;
            this.outputs = outputs;
            this.ms = ms;
        }
    }

    private static final int HISTORY = 32, PATIENCE = 8, WARMUP = 3;
    private static final double QUANTILE = 0.9;

    private final SignatureModel model;
    private final Clock clock;
    private final boolean continuing;
    private final TreeMap<Integer, String> names;
    private final Map<Integer, Deque<Double>> times = new HashMap<>();
    private final Map<Integer, Integer> leftOut = new HashMap<>();

    /** Runs all steps on `image` to know their times; the first, cold round does not count. */
    AnytimeSteps(SignatureModel model, SignatureTable table, Clock clock, ByteBuffer image) {
        this.model = model;
        this.clock = clock;
        names = namesIn(table);
        continuing = continues(table);
        for (int round = 0; round <= WARMUP; round++) {
            if (round <= 1) {
                for (int step : names.keySet()) times.put(step, new ArrayDeque<Double>());
            }
            Map<String, ByteBuffer> known = new HashMap<>();
            known.put("image", image);
            for (int step : names.keySet()) known.putAll(timed(step, known));
        }
    }

    /** Signatures of the steps, or else of sub-networks, by number; empty if it is no such net. */
    static TreeMap<Integer, String> namesIn(SignatureTable table) {
        return table.numbered(continues(table) ? "step" : "subnetwork");
    }

    /** Whether a file has steps, from the first one on. */
    static boolean continues(SignatureTable table) {
        return table.numbered("step").containsKey(1);
    }

    /** Expected time of the last answer. */
    synchronized double fullMs() {
        if (!continuing) return expectedMs(names.lastKey());
        double sum = 0;
        for (int step : names.keySet()) sum += expectedMs(step);
        return sum;
    }

    double expectedMs(int step) {
        Double[] sorted = times.get(step).toArray(new Double[0]);
        Arrays.sort(sorted);
        return sorted[(int) Math.ceil(QUANTILE * (sorted.length - 1))];
    }

    Answer run(ByteBuffer image, double deadlineMs) {
        return run(image, deadlineMs, clock.ms());
    }

    /** @param begin When it was asked for: waiting counts to the deadline. */
    private synchronized Answer run(ByteBuffer image, double deadlineMs, double begin) {
        Map<String, ByteBuffer> known = new HashMap<>();
        known.put("image", image);
        Integer step = continuing
                ? names.firstKey() : largestFitting(clock.ms() - begin, deadlineMs);
        Answer best = null;
        long thousands = 0;
        boolean late = false;
        while (step != null && !late) {
            Map<String, ByteBuffer> outputs = timed(step, known);
            double spent = clock.ms() - begin;
            thousands += outputs.get("executed_macs").getInt(0);
            late = spent > deadlineMs;
            if (best == null || !late) best = new Answer(step, outputs, spent);
            known.putAll(outputs);
            step = continuing ? names.higherKey(step) : null;
            if (step != null && !fits(step, clock.ms() - begin, deadlineMs)) break;
        }
        best.late = late;
        best.thousandMacs = thousands;
        return best;
    }

    private int largestFitting(double spent, double deadlineMs) {
        int best = names.firstKey();
        for (int step : names.keySet())
            if (step == best || fits(step, spent, deadlineMs)) best = step;
        return best;
    }

    private boolean fits(int step, double spent, double deadlineMs) {
        if (spent + expectedMs(step) <= deadlineMs) return true;
        Integer before = leftOut.get(step);
        int count = before == null ? 1 : before + 1;
        leftOut.put(step, count);
        Deque<Double> kept = times.get(step);
        if (count % PATIENCE == 0 && kept.size() > 1)
            kept.remove(Collections.max(kept));
        return false;
    }

    private Map<String, ByteBuffer> timed(int step, Map<String, ByteBuffer> known) {
        String name = names.get(step);
        Map<String, ByteBuffer> inputs = new HashMap<>();
        for (String input : model.inputs(name).keySet()) inputs.put(input, known.get(input));
        double begin = clock.ms();
        Map<String, ByteBuffer> outputs = model.run(name, inputs);
        Deque<Double> kept = times.get(step);
        kept.addLast(clock.ms() - begin);
        if (kept.size() > HISTORY) kept.removeFirst();
        return outputs;
    }
}
