package org.kerasdyngate;

/** Counts what was checked, and says what failed. */
final class Checks {
    interface Attempt {
        void run() throws Exception;
    }

    static int checked, failed;

    static void check(boolean holds, String what) {
        checked++;
        if (holds) return;
        failed++;
        System.out.println("FAILED: " + what);
    }

    /** That an attempt ends in this exception, with `part` in its message. */
    static void refused(Class<? extends Exception> type, String part, Attempt attempt) {
        try {
            attempt.run();
        } catch (Exception found) {
            String message = String.valueOf(found.getMessage());
            check(found.getClass() == type && message.contains(part),
                    "expected " + type.getSimpleName() + " with \"" + part + "\", not " + found);
            return;
        }
        check(false, "not refused: " + part);
    }
}
