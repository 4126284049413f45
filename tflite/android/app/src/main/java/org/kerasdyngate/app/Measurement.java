package org.kerasdyngate.app;

import android.content.res.AssetFileDescriptor;
import android.content.res.AssetManager;
import android.os.Build;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import org.kerasdyngate.CostTrials;
import org.kerasdyngate.SignatureModel;

/**
 * Times model.tflite under trials.json, beside plain.tflite if it is there, and writes times.json.
 *
 * Files are looked for in the app's folder on the phone, then among its assets.
 */
final class Measurement {
    private static final int ROUNDS = 5;
    private static final String TRIALS = "trials.json", TIMES = "times.json";
    private static final String MODEL = "model.tflite", PLAIN = "plain.tflite";

    private final File folder; // null: there is no storage
    private final AssetManager assets;

    Measurement(File folder, AssetManager assets) {
        this.folder = folder;
        this.assets = assets;
    }

    boolean isPossible() {
        return folder != null && has(TRIALS);
    }

    private boolean has(String name) {
        if (new File(folder, name).isFile()) return true;
        try {
            assets.open(name).close();
            return true;
        } catch (IOException missing) {
            return false;
        }
    }

    /** Returns what to say about it. */
    String run(int threads) throws IOException {
        CostTrials trials = new CostTrials(text(TRIALS));
        String device = Build.MANUFACTURER + " " + Build.MODEL, times;
        try (SignatureModel model = open(MODEL, threads);
                SignatureModel plain = has(PLAIN) ? open(PLAIN, threads) : null) {
            times = trials.measure(model, plain, ROUNDS, false, device);
        }
        File target = new File(folder, TIMES), beside = new File(folder, TIMES + ".part");
        try (FileOutputStream stream = new FileOutputStream(beside)) {
            stream.write(times.getBytes("UTF-8"));
            stream.getFD().sync();
        }
        if (!beside.renameTo(target))
            throw new IOException("There must be room for a file. Received: " + target);
        return trials.count + " trials, written to " + target;
    }

    private static SignatureModel model(ByteBuffer file, int threads) {
        return new SignatureModel("libLiteRt.so", file, threads);
    }

    private SignatureModel open(String name, int threads) throws IOException {
        File own = new File(folder, name);
        if (own.isFile())
            try (FileInputStream stream = new FileInputStream(own)) {
                return model(map(stream, 0, own.length()), threads);
            }
        try (AssetFileDescriptor asset = assets.openFd(name);
                FileInputStream stream = new FileInputStream(asset.getFileDescriptor())) {
            return model(map(stream, asset.getStartOffset(), asset.getLength()), threads);
        }
    }

    private static ByteBuffer map(FileInputStream stream, long start, long size)
            throws IOException {
        return stream.getChannel().map(FileChannel.MapMode.READ_ONLY, start, size);
    }

    private String text(String name) throws IOException {
        File own = new File(folder, name);
        ByteArrayOutputStream found = new ByteArrayOutputStream();
        byte[] part = new byte[1 << 16];
        try (InputStream stream = own.isFile() ? new FileInputStream(own) : assets.open(name)) {
            for (int size; (size = stream.read(part)) > 0; ) found.write(part, 0, size);
        }
        return found.toString("UTF-8");
    }
}
