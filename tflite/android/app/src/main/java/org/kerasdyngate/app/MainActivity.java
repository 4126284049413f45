package org.kerasdyngate.app;

import android.app.Activity;
import android.content.res.AssetFileDescriptor;
import android.graphics.Bitmap;
import android.os.Bundle;
import android.view.Menu;
import android.view.MenuItem;
import android.view.View;
import android.view.ViewGroup;
import android.widget.AdapterView;
import android.widget.ArrayAdapter;
import android.widget.HorizontalScrollView;
import android.widget.ImageView;
import android.widget.LinearLayout;
import android.widget.ScrollView;
import android.widget.SeekBar;
import android.widget.Spinner;
import android.widget.TextView;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import org.kerasdyngate.DynamicModel;
import org.kerasdyngate.Mode;
import org.kerasdyngate.Result;

/** Runs assets/model.tflite on the pictures in assets/pictures, and shows what that takes. */
public final class MainActivity extends Activity {
    private static final int THREADS = 2, SHOWN = 512, THUMBNAIL = 72;
    private static final float FAR = 1e29f; // thresholds beyond are reached by none, or by all
    private static final String MODEL = "model.tflite";
    private static final String PICTURE = "picture", MODE = "mode", SLIDER = "slider"; // saved

    static {
        System.loadLibrary("dyngate_jni");
    }

    /** What the worker does; an error becomes a text on the screen. */
    private abstract class Task implements Runnable {
        abstract void work() throws IOException;

        @Override
        public void run() {
            try {
                work();
            } catch (IOException | RuntimeException error) {
                say(error.getMessage() == null ? error.toString() : error.getMessage());
            }
        }
    }

    private final ExecutorService worker = Executors.newSingleThreadExecutor();
    private final AtomicInteger newest = new AtomicInteger(); // earlier requests are not run
    private DynamicModel model; // the worker's, as is `input`
    private ByteBuffer input;

    private Measurement measurement;
    private Pictures pictures;
    private LinearLayout thumbnails;
    private ImageView shown;
    private Spinner modes;
    private SeekBar slider;
    private TextView text;
    private String chosen;
    private int savedMode;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        measurement = new Measurement(getExternalFilesDir(null), getAssets());
        pictures = new Pictures(getAssets());
        lay();
        if (state != null) {
            chosen = state.getString(PICTURE);
            slider.setProgress(state.getInt(SLIDER));
        }
        savedMode = state == null ? 1 : state.getInt(MODE); // 0 is plain classify
        text.setText("Loading ...");
        worker.execute(new Task() {
            @Override
            void work() throws IOException {
                open();
            }
        });
    }

    @Override
    protected void onSaveInstanceState(Bundle state) {
        super.onSaveInstanceState(state);
        state.putString(PICTURE, chosen);
        state.putInt(SLIDER, slider.getProgress());
        state.putInt(MODE, modes.getCount() > 0 ? modes.getSelectedItemPosition() : savedMode);
    }

    @Override
    protected void onDestroy() {
        newest.incrementAndGet();
        worker.execute(new Task() {
            @Override
            void work() {
                if (model != null) model.close();
            }
        });
        worker.shutdown();
        super.onDestroy();
    }

    @Override
    public boolean onPrepareOptionsMenu(Menu menu) {
        menu.clear();
        if (measurement.isPossible()) menu.add("Measure");
        return true;
    }

    @Override
    public boolean onOptionsItemSelected(MenuItem item) {
        newest.incrementAndGet();
        text.setText("Measuring ...");
        worker.execute(new Task() {
            @Override
            void work() throws IOException {
                say(measurement.run(THREADS));
            }
        });
        return true;
    }

    private void lay() {
        LinearLayout column = new LinearLayout(this);
        column.setOrientation(LinearLayout.VERTICAL);
        column.setPadding(pixels(16), pixels(16), pixels(16), pixels(16));
        thumbnails = new LinearLayout(this);
        HorizontalScrollView row = new HorizontalScrollView(this);
        row.addView(thumbnails);
        column.addView(row);
        shown = new ImageView(this);
        column.addView(shown, new LinearLayout.LayoutParams(
                ViewGroup.LayoutParams.MATCH_PARENT, pixels(240)));
        modes = new Spinner(this);
        modes.setVisibility(View.INVISIBLE);
        column.addView(modes);
        slider = new SeekBar(this);
        slider.setProgress(slider.getMax() / 2);
        slider.setVisibility(View.INVISIBLE);
        slider.setOnSeekBarChangeListener(new SeekBar.OnSeekBarChangeListener() {
            @Override
            public void onProgressChanged(SeekBar bar, int progress, boolean fromUser) {
                ask();
            }

            @Override
            public void onStartTrackingTouch(SeekBar bar) {}

            @Override
            public void onStopTrackingTouch(SeekBar bar) {}
        });
        column.addView(slider);
        text = new TextView(this);
        text.setTextSize(18);
        text.setTextIsSelectable(true);
        column.addView(text);
        ScrollView all = new ScrollView(this);
        all.setFitsSystemWindows(true);
        all.addView(column);
        setContentView(all);
    }

    private int pixels(int dp) {
        return Math.round(dp * getResources().getDisplayMetrics().density);
    }

    /** Worker: opens the model, then offers its modes and the pictures. */
    private void open() throws IOException {
        try (AssetFileDescriptor asset = getAssets().openFd(MODEL);
                FileInputStream stream = new FileInputStream(asset.getFileDescriptor())) {
            ByteBuffer file = stream.getChannel().map(
                    FileChannel.MapMode.READ_ONLY, asset.getStartOffset(), asset.getLength());
            model = DynamicModel.open("libLiteRt.so", file, THREADS);
        } catch (IOException missing) {
            throw new IOException("There must be a model, not compressed, in the app's assets as "
                    + MODEL + ". Received: " + missing.getMessage());
        }
        final String[] names = pictures.names();
        if (names.length == 0)
            throw new IOException("There must be pictures in the app's assets. Received: none");
        final List<Mode> offered = new ArrayList<>(model.modes());
        onScreen(new Runnable() {
            @Override
            public void run() {
                offer(offered);
                choose(Arrays.asList(names).contains(chosen) ? chosen : names[0]);
            }
        });
        for (String name : names) addThumbnail(name, pictures.read(name, pixels(THUMBNAIL)));
    }

    private void offer(final List<Mode> offered) {
        modes.setAdapter(new ArrayAdapter<>(
                this, android.R.layout.simple_spinner_dropdown_item, offered));
        modes.setSelection(Math.min(savedMode, offered.size() - 1));
        modes.setVisibility(View.VISIBLE);
        modes.setOnItemSelectedListener(new AdapterView.OnItemSelectedListener() {
            @Override
            public void onItemSelected(AdapterView<?> parent, View view, int position, long id) {
                Mode mode = offered.get(position);
                boolean takes = mode.takesThresholds() || mode.takesDeadline();
                slider.setVisibility(takes ? View.VISIBLE : View.INVISIBLE);
                ask();
            }

            @Override
            public void onNothingSelected(AdapterView<?> parent) {}
        });
    }

    private void addThumbnail(final String name, final Bitmap picture) {
        onScreen(new Runnable() {
            @Override
            public void run() {
                ImageView view = new ImageView(MainActivity.this);
                view.setImageBitmap(picture);
                view.setContentDescription(name);
                view.setScaleType(ImageView.ScaleType.CENTER_CROP);
                view.setOnClickListener(new View.OnClickListener() {
                    @Override
                    public void onClick(View clicked) {
                        choose(name);
                    }
                });
                thumbnails.addView(view, pixels(THUMBNAIL), pixels(THUMBNAIL));
            }
        });
    }

    private void choose(final String name) {
        chosen = name;
        worker.execute(new Task() {
            @Override
            void work() throws IOException {
                int size = Math.max(SHOWN, Math.max(model.width, model.height));
                final Bitmap picture = pictures.read(name, size);
                input = model.image(Pictures.pixels(picture, model.width, model.height));
                onScreen(new Runnable() {
                    @Override
                    public void run() {
                        shown.setImageBitmap(picture);
                        ask();
                    }
                });
            }
        });
    }

    /** Has the picture classified as the controls say. */
    private void ask() {
        final Mode mode = (Mode) modes.getSelectedItem();
        final double position = (double) slider.getProgress() / slider.getMax();
        final int number = newest.incrementAndGet();
        if (mode == null) return;
        worker.execute(new Task() {
            @Override
            void work() {
                if (input == null || number != newest.get()) return;
                say(describe(model.run(mode, input, position), mode, position));
            }
        });
    }

    private String describe(Result found, Mode mode, double position) {
        StringBuilder lines = new StringBuilder(found.name);
        add(lines, "\n%.2f ms", found.ms);
        if (found.exit >= 0) add(lines, ", exit %d of %d", found.exit + 1, model.exits);
        if (found.place != null) lines.append(", ").append(found.place);
        if (found.step > 0) add(lines, ", step %d", found.step);
        if (found.late) lines.append(", late");
        if (!Double.isNaN(found.openRate))
            add(lines, ", %.0f %% of the gates open", 100 * found.openRate);
        add(lines, "\n%.2f million MACs", found.executedMacs / 1e6);
        if (found.wholeMacs > 0)
            add(lines, ", %.0f %% of %.2f", 100 * found.share(), found.wholeMacs / 1e6);
        if (mode.takesDeadline()) add(lines, "\ndeadline %.1f ms", model.deadlineAt(position));
        if (mode.takesThresholds())
            addThresholds(lines, model.thresholdsAt(position));
        return lines.toString();
    }

    private static void addThresholds(StringBuilder lines, float[] thresholds) {
        String before = "\nthresholds ";
        for (float limit : thresholds) {
            lines.append(before);
            before = ", ";
            if (Math.abs(limit) < FAR) add(lines, "%.2f", limit);
            else lines.append(limit > 0 ? "none leaves" : "all leave");
        }
    }

    private static void add(StringBuilder lines, String format, Object... values) {
        lines.append(String.format(Locale.ROOT, format, values));
    }

    private void say(final String words) {
        onScreen(new Runnable() {
            @Override
            public void run() {
                text.setText(words);
            }
        });
    }

    private void onScreen(final Runnable change) {
        runOnUiThread(new Runnable() {
            @Override
            public void run() {
                if (!isDestroyed()) change.run();
            }
        });
    }
}
