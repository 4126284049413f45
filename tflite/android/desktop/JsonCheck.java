package org.kerasdyngate;

import static org.kerasdyngate.Checks.check;
import static org.kerasdyngate.Checks.refused;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** Json and Metadata on what the exporter writes, and on what it would never write. */
final class JsonCheck {
    static void run() {
        Map<?, ?> found = (Map<?, ?>) Json.parse(
                " {\"a\": [1, -2.5e3, true, false, null, {}, []], \"b\\u00e9\\n\": \"\\ud83d\\ude00\"} ");
        List<?> expected = Arrays.asList(
                1.0, -2500.0, true, false, null, Collections.emptyMap(), Collections.emptyList());
        check(expected.equals(found.get("a")), "JSON values");
        check("\ud83d\ude00".equals(found.get("b\u00e9\n")), "JSON escapes");
        check(Double.valueOf(Double.NEGATIVE_INFINITY).equals(Json.parse("-Infinity"))
                && Double.valueOf(Double.NaN).equals(Json.parse("NaN")), "Python's infinities");

        String whole = "{\"a\": [1.5, \"x\\u0041\", {\"b\": null}]}";
        for (int end = 0; end < whole.length(); end++) unreadable(whole.substring(0, end));
        for (String text : new String[] {"1 2", "{}x", "[1,]", "{\"a\":1,}", "{a:1}", "{1:2}", "01",
                "+1", "1.", ".5", "1e", "--1", "0x1", "\"\\x\"", "\"\\u00g0\"", "\"\\u00\uff11\uff11\"",
                "\"\n\"", "\u0000", "tru", "'a'", "[1 2]", "nul\u0000", "\ufeff{}"}) unreadable(text);
        unreadable(new String(new char[100000]).replace("\0", "["));
        unreadable(new String(new char[100000]).replace("\0", "{\"a\":"));

        Metadata nothing = new Metadata(null);
        check(nothing.labels.isEmpty() && nothing.macs == 0 && nothing.exits.isEmpty(), "no metadata");
        String head = "{\"name\": \"head\", \"after\": null, \"macs\": 9e3, \"macs_share\": 1.0}";
        String gate = "{\"name\": \"gate_1\", \"after\": \"b4_add\", \"macs\": 4040, \"macs_share\": 0.449}";
        List<ExitPlace> exits = new Metadata(
                ("{\"exits\": [" + gate + ", " + gate.replace("b4_add", "input") + ", " + head + "]}")
                        .getBytes()).exits;
        check(exits.size() == 3 && exits.get(0).macs == 4040 && exits.get(2).after == null, "exits");
        check(exits.get(0).toString().equals("after b4_add, .45 of the MACs"), "a place");
        check(exits.get(1).toString().equals("after the input, .45 of the MACs"), "a first net's place");
        check(exits.get(2).toString().equals("at the end, 1.00 of the MACs"), "the head's place");
        for (String text : new String[] {"[]", "3", "{\"labels\": [1]}", "{\"thresholds\": [\"x\"]}",
                "{\"exits\": [3]}", "{\"exits\": [{}]}", "{\"exits\": [" + head.replace("9e3", "null") + "]}",
                "{\"exits\": [" + head.replace("null", "[]") + "]}",
                "{\"exits\": [" + head.replace("\"after\"", "\"before\"") + "]}"})
            refused(IllegalArgumentException.class, "must", () -> new Metadata(text.getBytes()));
        refused(IllegalArgumentException.class, "must be JSON",
                () -> new Metadata(new byte[] {(byte) 0xff, (byte) 0xfe, 0}));
    }

    private static void unreadable(String text) {
        refused(IllegalArgumentException.class, "must be JSON", () -> Json.parse(text));
    }
}
