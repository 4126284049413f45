package org.kerasdyngate.app;

import android.content.res.AssetManager;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import java.io.IOException;
import java.io.InputStream;

/** Pictures in the app's assets. */
final class Pictures {
    private static final String FOLDER = "pictures";

    private final AssetManager assets;

    Pictures(AssetManager assets) {
        this.assets = assets;
    }

    String[] names() throws IOException {
        String[] names = assets.list(FOLDER);
        return names == null ? new String[0] : names;
    }

    /** A picture, made smaller by a power of two while both its sides stay above `size`. */
    Bitmap read(String name, int size) throws IOException {
        BitmapFactory.Options options = new BitmapFactory.Options();
        options.inJustDecodeBounds = true;
        decode(name, options);
        options.inJustDecodeBounds = false;
        options.inSampleSize = 1;
        while (Math.min(options.outWidth, options.outHeight) / (2 * options.inSampleSize) > size)
            options.inSampleSize *= 2;
        Bitmap picture = decode(name, options);
        if (picture == null)
            throw new IOException(name + " must be a picture. Received: what Android cannot read");
        return picture;
    }

    private Bitmap decode(String name, BitmapFactory.Options options) throws IOException {
        try (InputStream stream = assets.open(FOLDER + "/" + name)) {
            return BitmapFactory.decodeStream(stream, null, options);
        }
    }

    /** Its largest centred part of this shape, as width x height pixels. */
    static int[] pixels(Bitmap picture, int width, int height) {
        int w = picture.getWidth(), h = picture.getHeight();
        double scale = Math.min((double) w / width, (double) h / height);
        int cutWidth = Math.max(1, (int) (scale * width));
        int cutHeight = Math.max(1, (int) (scale * height));
        Bitmap cut = Bitmap.createBitmap(
                picture, (w - cutWidth) / 2, (h - cutHeight) / 2, cutWidth, cutHeight);
        int[] pixels = new int[width * height];
        Bitmap.createScaledBitmap(cut, width, height, true)
                .getPixels(pixels, 0, width, 0, 0, width, height);
        return pixels;
    }
}
