package org.kerasdyngate;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What each signature of a file is for, as the exporter noted it in the metadata entry
 * "signatures". Kinds: "answer", "answer_at" (takes thresholds), "answer_under" (takes decisions),
 * "witness" and "witness_at" (the same with every decision), "stage", "step", "subnetwork",
 * "other".
 */
final class SignatureTable {
    private static final class Role {
        final String kind;
        /** Of a stage, a step or a sub-network, from 1; 0 of others. */
        final int order;
        /** The signature that adds the decisions, or null. */
        final String explainedBy;

        Role(String kind, int order, String explainedBy) {
            this.kind = kind;
            this.order = order;
            this.explainedBy = explainedBy;
        }
    }

    private static final Pattern NUMBERED =
            Pattern.compile("(stage_|step_|classify_k)0*([1-9][0-9]{0,3})");
    private static final Role OTHER = new Role("other", 0, null);

    private final Map<String, Role> roles = new LinkedHashMap<>();

    /**
     * @param noted The entry, or null in files of version 0.1.0: then names tell.
     * @param names The file's signatures; roles of others count for nothing.
     */
    SignatureTable(Map<?, ?> noted, List<String> names) {
        for (String name : names) {
            Object found = noted == null ? null : noted.get(name);
            roles.put(name, noted == null ? byName(name) : found == null ? OTHER : read(found));
        }
    }

    /** The first signature of a kind, or null. */
    String first(String kind) {
        for (Map.Entry<String, Role> each : roles.entrySet())
            if (each.getValue().kind.equals(kind)) return each.getKey();
        return null;
    }

    /** Stages, steps or sub-networks by number. */
    TreeMap<Integer, String> numbered(String kind) {
        TreeMap<Integer, String> found = new TreeMap<>();
        for (Map.Entry<String, Role> each : roles.entrySet())
            if (each.getValue().kind.equals(kind) && each.getValue().order > 0)
                found.put(each.getValue().order, each.getKey());
        return found;
    }

    /** The signature that gives the same answer with its decisions, or null. */
    String explains(String name) {
        Role role = roles.get(name);
        return role == null || !roles.containsKey(role.explainedBy) ? null : role.explainedBy;
    }

    private static Role read(Object noted) {
        Map<?, ?> entry = noted instanceof Map ? (Map<?, ?>) noted : new LinkedHashMap<>();
        Object order = entry.containsKey("order") ? entry.get("order") : 0.0;
        Object witness = entry.get("explained_by");
        boolean fits = entry.get("kind") instanceof String && order instanceof Double
                && (Double) order == Math.floor((Double) order) && (Double) order >= 0
                && (witness == null || witness instanceof String);
        if (!fits)
            throw new IllegalArgumentException("Signatures in the file's metadata must have a kind,"
                    + " order and explained_by. Received: " + noted);
        return new Role(
                (String) entry.get("kind"), ((Double) order).intValue(), (String) witness);
    }

    /** For files of version 0.1.0, here and nowhere else. */
    private static Role byName(String name) {
        switch (name) {
            case "classify":
            case "segment":
                return new Role("answer", 0, "explain");
            case "explain":
                return new Role("witness", 0, name);
            case "classify_at":
                return new Role("answer_at", 0, "explain_at");
            case "explain_at":
                return new Role("witness_at", 0, name);
            case "start":
                return new Role("step", 1, null);
            default:
                break;
        }
        Matcher match = NUMBERED.matcher(name);
        if (!match.matches()) return OTHER;
        String kind = match.group(1).equals("classify_k")
                ? "subnetwork" : match.group(1).replace("_", "");
        return new Role(kind, Integer.parseInt(match.group(2)), null);
    }
}
