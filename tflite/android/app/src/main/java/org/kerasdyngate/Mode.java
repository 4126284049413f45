package org.kerasdyngate;

import java.util.Locale;

/** Ways of running a file. */
public enum Mode {
    /** One call; each image decides for itself what it needs. */
    CLASSIFY,
    /** The same, and how many gates were open. */
    EXPLAIN,
    /** The same with thresholds of early exits given from outside. */
    CLASSIFY_AT,
    /** Stage by stage; the app decides at each exit whether to go on. */
    STAGES,
    /** The steps of an anytime net that fit in a deadline. */
    STEPS;

    public boolean takesThresholds() {
        return this == CLASSIFY_AT || this == STAGES;
    }

    public boolean takesDeadline() {
        return this == STEPS;
    }

    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }
}
