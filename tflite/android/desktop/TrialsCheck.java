package org.kerasdyngate;

import static org.kerasdyngate.Checks.check;
import static org.kerasdyngate.Checks.refused;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Checks CostTrials on a file, and writes what it measures:
 * java org.kerasdyngate.TrialsCheck JNI_LIBRARY LITERT_LIBRARY MODEL PLAIN TRIALS TIMES
 */
final class TrialsCheck {
    private static final Class<IllegalArgumentException> ARGUMENT = IllegalArgumentException.class;
    private static final int ROUNDS = 3;

    /** A clock by which the first call takes 2 ms, the second 4, the third 6. */
    private static final class Slowing implements AnytimeSteps.Clock {
        double now, tick;

        @Override
        public double ms() {
            return now += ++tick;
        }
    }

    public static void main(String[] arguments) throws Exception {
        System.load(arguments[0]);
        String json = new String(Files.readAllBytes(Paths.get(arguments[4])), StandardCharsets.UTF_8);
        try (SignatureModel model = open(arguments[1], arguments[2]);
                SignatureModel plain = open(arguments[1], arguments[3])) {
            texts(json, model);
            clock(json, model, plain);
            CostTrials trials = new CostTrials(json);
            Path times = Paths.get(arguments[5]);
            String device = "a \"JVM\" \\ \u00e9";
            String found = trials.measure(model, plain, ROUNDS, false, device);
            Files.write(times, found.getBytes(StandardCharsets.UTF_8));
            check(costs(trials.measure(model, null, 1, true, "cold")).size() == trials.count, "cold");
        }
        try (DynamicModel model = DynamicModel.open(arguments[1], read(arguments[2]), 1)) {
            String found = new CostTrials(json).measure(model, null, 1, false, "an app");
            check(found.contains("\"plain\": null"), "a model of an app, without a plain one");
        }
        System.out.println(Checks.checked + " checks, " + Checks.failed + " failed");
        if (Checks.failed > 0) System.exit(1);
    }

    private static List<?> costs(String times) {
        return (List<?>) ((Map<?, ?>) Json.parse(times)).get("costs");
    }

    /** By a clock that slows down, all times are those of the first round. */
    private static void clock(String json, SignatureModel model, SignatureModel plain) {
        CostTrials trials = new CostTrials(json);
        String found = trials.measure(model, plain, ROUNDS, false, "", new Slowing());
        int apart = Math.max(1, trials.count / 8);
        int calls = trials.count + (trials.count + apart - 1) / apart;
        Set<Object> times = new HashSet<>(costs(found));
        check(times.size() == trials.count, "each trial has a time of its own: " + times);
        for (Object ms : times)
            check((Double) ms % 2 == 0 && (Double) ms <= 2 * calls, "of the first round: " + ms);
        check(found.endsWith("\"plain\": 4.0}\n"), "the plain file is second: " + found);
    }

    private static void texts(String json, SignatureModel model) {
        refused(ARGUMENT, "format", () -> new CostTrials(null));
        refused(ARGUMENT, "format", () -> new CostTrials("{}"));
        refused(ARGUMENT, "format", () -> new CostTrials("[]"));
        for (int end = 0; end < json.length(); end++) {
            String part = json.substring(0, end);
            if (!part.trim().equals(json.trim()))
                refused(ARGUMENT, "must be JSON", () -> new CostTrials(part));
        }
        String head = "{\"format\": \"keras_dyngate trials 1\", \"signature\": \"classify\","
                + " \"file_sha256\": \"\", ";
        for (String rest : new String[] {"\"held\": 3", "\"held\": []", "\"held\": [3, 4]",
                "\"held\": [[1], [1, 0]]", "\"held\": [[0.5]]", "\"held\": [[2]]", "\"held\": [[true]]",
                "\"held\": [[1]], \"thresholds\": 3", "\"held\": [[1]], \"thresholds\": []",
                "\"held\": [[1]], \"thresholds\": [[NaN]]", "\"held\": [[1]], \"thresholds\": [[1e39]]",
                "\"held\": [[1]], \"thresholds\": [[\"1\"]]", "\"thresholds\": null", "\"held\": [[1]]"})
            refused(ARGUMENT, "must", () -> new CostTrials(head + rest + "}"));
        refused(ARGUMENT, "`signature` must be a text",
                () -> new CostTrials("{\"format\": \"keras_dyngate trials 1\"}"));
        CostTrials other = new CostTrials(head + "\"held\": [[1, 0]], \"thresholds\": null}");
        refused(ARGUMENT, "0 decisions each, as the file takes. Received: 2",
                () -> other.measure(model, null, 1, false, ""));
        refused(ARGUMENT, "`rounds`", () -> other.measure(model, null, 0, false, ""));
        refused(ARGUMENT, "`model`", () -> other.measure((SignatureModel) null, null, 1, false, ""));
        refused(ARGUMENT, "`device`", () -> other.measure(model, null, 1, false, null));
        CostTrials lost = new CostTrials((head + "\"held\": [[]], \"thresholds\": null}")
                .replace("classify", "guess"));
        refused(ARGUMENT, "`signature` must be one of", () -> lost.measure(model, null, 1, false, ""));
    }

    private static SignatureModel open(String library, String path) throws Exception {
        return new SignatureModel(library, read(path), 1);
    }

    private static ByteBuffer read(String path) throws Exception {
        byte[] bytes = Files.readAllBytes(Paths.get(path));
        ByteBuffer direct = SignatureModel.buffer(bytes.length);
        direct.put(bytes);
        direct.rewind();
        return direct;
    }
}
