package org.kerasdyngate;

import java.util.Locale;
import java.util.Map;

/** Where an exit is and what it costs, as the exporter noted it. */
public final class ExitPlace {
    /** Of its gate; "head" of the last exit. */
    public final String name;
    /** The layer it is after; "input" of a first net, null of the net's own head. */
    public final String after;
    /** MACs from the image to there. */
    public final long macs;
    /** The same over those to the end. */
    public final double share;

    /** @param noted An entry of the metadata's "exits". */
    ExitPlace(Map<?, ?> noted) {
        Object layer = noted.get("after");
        if (!(noted.get("name") instanceof String) || !(noted.get("macs") instanceof Double)
                || !(noted.get("macs_share") instanceof Double) || !noted.containsKey("after")
                || layer != null && !(layer instanceof String))
            throw new IllegalArgumentException("Exits in the file's metadata must have a name, after,"
                    + " macs and macs_share. Received: " + noted);
        name = (String) noted.get("name");
        after = (String) layer;
        macs = ((Double) noted.get("macs")).longValue();
        share = (Double) noted.get("macs_share");
    }

    /** For a person: "after b4_add, .45 of the MACs". */
    @Override
    public String toString() {
        String where = after == null ? "at the end"
                : "after " + (after.equals("input") ? "the input" : after);
        String part = String.format(Locale.ROOT, "%.2f", share);
        return where + ", " + (part.startsWith("0") ? part.substring(1) : part) + " of the MACs";
    }
}
