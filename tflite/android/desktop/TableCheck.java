package org.kerasdyngate;

import static org.kerasdyngate.Checks.check;
import static org.kerasdyngate.Checks.refused;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** SignatureTable: as a file notes it, and by the names of version 0.1.0. */
final class TableCheck {
    static void run() {
        List<String> names = Arrays.asList("one", "two", "ten", "why", "what", "classify");
        SignatureTable table = table("{\"one\": {\"kind\": \"step\", \"order\": 1},"
                + " \"two\": {\"kind\": \"step\", \"order\": 2, \"follows\": \"one\"},"
                + " \"ten\": {\"kind\": \"step\", \"order\": 10, \"follows\": \"gone\"},"
                + " \"why\": {\"kind\": \"witness\", \"explained_by\": \"why\"},"
                + " \"what\": {\"kind\": \"answer\", \"explained_by\": \"why\"},"
                + " \"gone\": {\"kind\": \"stage\", \"order\": 1}}", names);
        check(table.numbered("step").toString().equals("{1=one, 2=two, 10=ten}"), "noted steps");
        check(table.numbered("stage").isEmpty(), "a signature that is gone");
        check("what".equals(table.first("answer")) && table.first("answer_at") == null, "first");
        check("classify".equals(table.first("other")), "names say nothing beside a table");
        check("why".equals(table.explains("what")) && table.explains("one") == null, "explains");
        check(table.explains(null) == null, "nothing explains nothing");

        SignatureTable old = new SignatureTable(null, Arrays.asList("classify", "classify_at",
                "classify_k2", "explain", "stage_1", "stage_2", "start", "step_10", "step_2"));
        check("classify".equals(old.first("answer")) && "explain".equals(old.first("witness")),
                "names: answers");
        check("classify_at".equals(old.first("answer_at")) && old.explains("classify_at") == null,
                "names: explain_at is gone");
        check(old.numbered("stage").toString().equals("{1=stage_1, 2=stage_2}"), "names: stages");
        check(old.numbered("step").toString().equals("{1=start, 2=step_2, 10=step_10}"),
                "names: steps");
        check(old.numbered("subnetwork").toString().equals("{2=classify_k2}"), "names: sub-networks");
        for (String name : new String[] {"stage_0", "step_x", "classify_k", "stage_k1", "f"})
            check(name.equals(new SignatureTable(null, Collections.singletonList(name)).first("other")),
                    "another name: " + name);

        for (String entry : new String[] {"3", "{}", "{\"kind\": 1}",
                "{\"kind\": \"step\", \"order\": \"1\"}", "{\"kind\": \"step\", \"order\": 1.5}",
                "{\"kind\": \"step\", \"order\": -1}", "{\"kind\": \"step\", \"explained_by\": 1}"})
            refused(IllegalArgumentException.class, "must have a kind",
                    () -> table("{\"one\": " + entry + "}", names));
        refused(IllegalArgumentException.class, "must be by name",
                () -> new Metadata("{\"signatures\": []}".getBytes()));
    }

    private static SignatureTable table(String json, List<String> names) {
        Map<?, ?> noted = new Metadata(("{\"signatures\": " + json + "}").getBytes()).signatures;
        return new SignatureTable(noted, names);
    }
}
