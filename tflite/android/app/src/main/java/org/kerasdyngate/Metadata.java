package org.kerasdyngate;

import java.nio.charset.Charset;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** What the exporter noted in a file; empty where it noted nothing. */
final class Metadata {
    final List<String> labels;
    final List<Double> thresholds;
    final List<ExitPlace> exits;
    final long macs;
    /** The table of the signatures; null in files that have none. */
    final Map<?, ?> signatures;

    /** @param json UTF-8, or null. */
    Metadata(byte[] json) {
        Object found = json == null
                ? Collections.emptyMap() : Json.parse(new String(json, Charset.forName("UTF-8")));
        if (!(found instanceof Map))
            throw new IllegalArgumentException(
                    "The file's metadata must be a JSON object. Received: " + found);
        Map<?, ?> entries = (Map<?, ?>) found;
        labels = listOf(String.class, entries.get("labels"));
        thresholds = listOf(Double.class, entries.get("thresholds"));
        List<ExitPlace> places = new ArrayList<>();
        for (Map<?, ?> noted : listOf(Map.class, entries.get("exits")))
            places.add(new ExitPlace(noted));
        exits = Collections.unmodifiableList(places);
        Object table = entries.get("signatures");
        if (table != null && !(table instanceof Map))
            throw new IllegalArgumentException(
                    "Signatures in the file's metadata must be by name. Received: " + table);
        signatures = (Map<?, ?>) table;
        Object whole = entries.get("macs");
        macs = whole instanceof Double ? ((Double) whole).longValue() : 0;
    }

    private static <T> List<T> listOf(Class<T> type, Object found) {
        List<T> list = new ArrayList<>();
        if (found instanceof List)
            for (Object item : (List<?>) found) {
                if (!type.isInstance(item))
                    throw new IllegalArgumentException("Lists in the file's metadata must hold "
                            + type.getSimpleName() + ". Received: " + item);
                list.add(type.cast(item));
            }
        return Collections.unmodifiableList(list);
    }
}
