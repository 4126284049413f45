package org.kerasdyngate;

import static org.kerasdyngate.Checks.check;
import static org.kerasdyngate.Checks.refused;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/**
 * Checks DynamicModel, and what it stands on, on the files of golden folders:
 * java org.kerasdyngate.ModelCheck JNI_LIBRARY LITERT_LIBRARY GOLDEN_PARENT
 */
final class ModelCheck {
    private static final Class<IllegalArgumentException> ARGUMENT = IllegalArgumentException.class;

    /** A clock that goes on by `tick` whenever it is read. */
    private static final class Ticks implements AnytimeSteps.Clock {
        double now, tick = 5;

        @Override
        public synchronized double ms() {
            return now += tick;
        }
    }

    public static void main(String[] arguments) throws Exception {
        System.load(arguments[0]);
        JsonCheck.run();
        TableCheck.run();
        int folders = 0;
        try (DirectoryStream<Path> parent = Files.newDirectoryStream(Paths.get(arguments[2]))) {
            for (Path folder : parent) {
                if (!Files.exists(folder.resolve("model.tflite"))) continue;
                ByteBuffer file = read(folder.resolve("model.tflite"));
                BorderCheck.run(arguments[1], file);
                Ticks clock = new Ticks();
                SignatureModel raw = new SignatureModel(arguments[1], file, 1);
                try (DynamicModel model = new DynamicModel(raw, clock)) {
                    checkAll(folder, raw, model, clock);
                    System.out.println(folder.getFileName() + ": " + model.kind + ", modes "
                            + model.modes() + ", labels " + model.labels);
                }
                folders++;
            }
        }
        check(folders > 0, "GOLDEN_PARENT must hold golden folders");
        System.out.println(Checks.checked + " checks on " + folders + " files, " + Checks.failed + " failed");
        if (Checks.failed > 0) System.exit(1);
    }

    private static void checkAll(
            Path folder, SignatureModel raw, DynamicModel model, Ticks clock) throws Exception {
        String name = folder.getFileName() + ": ";
        check(model.wholeMacs > 0 && model.width > 0 && model.height > 0, name + "what is noted");
        refused(ARGUMENT, "`argb`", () -> model.image(null));
        refused(ARGUMENT, "`argb`", () -> model.image(new int[3]));
        refused(ARGUMENT, "`mode`", () -> model.run(null, null, 0));
        refused(ARGUMENT, "direct", () -> model.run(Mode.CLASSIFY, null, 0));
        List<Map<String, ByteBuffer>> cases = new ArrayList<>();
        for (String line : Files.readAllLines(folder.resolve("cases.txt"))) {
            Map<String, ByteBuffer> golden = new HashMap<>();
            for (String word : line.split(" "))
                if (word.contains("="))
                    golden.put(word.substring(0, word.indexOf('=')),
                            read(folder.resolve(word.substring(word.indexOf('=') + 1).replace(">", ""))));
            if (!line.startsWith("classify ")) continue;
            one(name, model, golden);
            cases.add(golden);
        }
        if (model.kind == DynamicModel.Kind.ANYTIME)
            deadlines(name, raw, model, clock);
        else refused(IllegalStateException.class, "anytime", () -> model.deadlineAt(0.5));
        threads(name, model, cases);
    }

    /** One image, in all ways that must agree with its golden `classify`. */
    private static void one(String name, DynamicModel model, Map<String, ByteBuffer> golden) {
        ByteBuffer image = golden.get("image");
        boolean floats = image.capacity() == 4 * 3 * model.width * model.height;
        int[] pixels = new int[model.width * model.height];
        for (int i = 0; i < 3 * pixels.length; i++) {
            int value = floats ? (int) image.getFloat(4 * i) : image.get(i) & 0xff;
            pixels[i / 3] |= 0x80000000 | value << 8 * (2 - i % 3);
        }
        check(model.image(pixels).equals(image), name + "pixels to input");

        int label = golden.get("label").getInt(0);
        long macs = 1000L * golden.get("executed_macs").getInt(0);
        Result said = model.run(Mode.CLASSIFY, image, 0.5);
        check(said.label == label && said.executedMacs == macs, name + "classify");
        check(said.name.equals(label < model.labels.size() ? model.labels.get(label) : "class " + label),
                name + "the name of the class");
        check(Math.abs(said.share() * model.wholeMacs - macs) < 1, name + "share");
        check(said.ms > 0 && !said.late && said.step == 0, name + "classify has no steps");
        if (model.modes().contains(Mode.EXPLAIN)) {
            Result why = model.run(Mode.EXPLAIN, image, 0.5);
            check(why.label == label && why.executedMacs == macs, name + "explain");
            check(why.openRate >= 0 && why.openRate <= 1, name + "open rate " + why.openRate);
        }
        if (model.kind == DynamicModel.Kind.EXITS) {
            exits(name, model, image, said);
        } else {
            check(said.exit == -1 && said.place == null && model.exits == 0
                    && Double.isNaN(said.openRate), name + "no exits");
            refused(ARGUMENT, "`thresholds`", () -> model.classify(image, new float[0]));
            refused(ARGUMENT, "`thresholds`", () -> model.stages(image, new float[0]));
            refused(ARGUMENT, "`mode`", () -> model.run(Mode.STAGES, image, 0.5));
        }
        if (model.kind == DynamicModel.Kind.ANYTIME) {
            Result last = model.run(Mode.STEPS, image, 1);
            check(last.label == label && Math.abs(last.executedMacs - macs) <= 1000 * last.step,
                    name + "all steps are the whole net");
        }
    }

    /** Threads that share a model get the answers of their own images, in every way of running. */
    private static void threads(
            String name, DynamicModel model, List<Map<String, ByteBuffer>> cases)
            throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<Boolean>> found = new ArrayList<>();
        for (int turn = 0; turn < 60; turn++) {
            Map<String, ByteBuffer> golden = cases.get(turn % cases.size());
            found.add(pool.submit(() -> {
                int label = golden.get("label").getInt(0);
                boolean equal = true;
                for (Mode mode : model.modes()) {
                    double position = mode == Mode.STEPS ? 1 : 0.5;
                    equal &= model.run(mode, golden.get("image"), position).label == label;
                }
                return equal;
            }));
        }
        pool.shutdown(); // what is submitted is still done
        boolean all = true;
        for (Future<Boolean> each : found) all &= each.get();
        check(all, name + "four threads at once");
    }

    private static void exits(String name, DynamicModel model, ByteBuffer image, Result said) {
        int gates = model.thresholdsAt(0.5).length;
        check(model.exits == gates + 1, name + "exits");
        if (said.place != null) // in a golden net an exit always costs the same
            check(Math.abs(said.place.macs - said.executedMacs) < 1000, name + said.place);
        for (Mode mode : new Mode[] {Mode.CLASSIFY_AT, Mode.STAGES}) {
            Result own = model.run(mode, image, 0.5);
            check(own.label == said.label && own.exit == said.exit, name + mode + " at its own thresholds");
            check(Math.abs(own.executedMacs - said.executedMacs) <= 1000 * gates, name + mode + " MACs");
            check(model.run(mode, image, 0).exit == 0, name + mode + ": all leave at once");
            check(model.run(mode, image, 1).exit == gates, name + mode + ": none leaves early");
            int before = 0;
            for (double position = 0; position <= 1; position += 0.125) {
                int exit = model.run(mode, image, position).exit;
                check(exit >= before, name + mode + ": the slider only ever adds work");
                before = exit;
            }
            refused(ARGUMENT, "`position`", () -> model.run(mode, image, 1.01));
            refused(ARGUMENT, "`position`", () -> model.run(mode, image, Double.NaN));
        }
        refused(ARGUMENT, "`thresholds`", () -> model.stages(image, null));
        refused(ARGUMENT, "`thresholds`", () -> model.classify(image, new float[gates + 1]));
        refused(ARGUMENT, "`mode`", () -> model.run(Mode.STEPS, image, 0.5));
    }

    private static void deadlines(
            String name, SignatureModel raw, DynamicModel model, Ticks clock) {
        ByteBuffer image = model.image(new int[model.width * model.height]);
        refused(ARGUMENT, "`deadlineMs`", () -> model.steps(image, -1));
        refused(ARGUMENT, "`deadlineMs`", () -> model.steps(image, Double.NaN));
        check(model.deadlineAt(0) == 0 && model.deadlineAt(1) == Double.POSITIVE_INFINITY,
                name + "ends of the slider");
        Result last = model.steps(image, Double.POSITIVE_INFINITY);
        Result first = model.steps(image, 0);
        check(first.step < last.step && first.late && !last.late, name + "first and last step");
        check(first.executedMacs < last.executedMacs, name + "MACs of the first step");
        check(Double.isNaN(first.openRate) && first.exit == -1, name + "steps have no exits");
        if (AnytimeSteps.continues(new SignatureTable(null, raw.signatures()))) {
            steps(name, model, clock, image, first.executedMacs);
        } else { // a sub-network takes 5 ms, whichever
            check(model.steps(image, 5).step == last.step, name + "the largest that fits");
            check(model.steps(image, 4).step == first.step, name + "none fits");
        }
    }

    /**
     * The clock ticks 5 ms a reading: a step takes 5 ms, the first one is over 15 ms after the
     * call began, the second one is thought of at 20 ms and over at 35 ms.
     */
    private static void steps(
            String name, DynamicModel model, Ticks clock, ByteBuffer image, long firstMacs) {
        Result exact = model.steps(image, 15);
        check(exact.step == 1 && !exact.late && exact.ms == 15, name + "just in time");
        check(model.steps(image, 24).executedMacs == firstMacs, name + "no time for a second step");
        Result tried = model.steps(image, 25);
        check(tried.step == 1 && tried.late && tried.ms == 15, name + "a step that came too late");
        check(tried.executedMacs > firstMacs, name + "MACs of the late step count");
        check(model.steps(image, 35).step == 2, name + "two steps");

        clock.tick = 1000;
        for (int call = 0; call < 4; call++) model.steps(image, Double.POSITIVE_INFINITY);
        clock.tick = 5;
        int leftOut = 0;
        while (leftOut < 99 && model.steps(image, 500).step == 1) leftOut++;
        check(leftOut >= 8 && leftOut <= 32, name + "slow steps are left out, " + leftOut + " times");
    }

    private static ByteBuffer read(Path path) throws IOException {
        byte[] bytes = Files.readAllBytes(path);
        ByteBuffer direct = ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.nativeOrder());
        direct.put(bytes);
        direct.rewind();
        return direct;
    }
}
