package org.kerasdyngate;

/** What a net said about an image, and what that took. */
public final class Result {
    /** The class: its index, and its name ("class 3" if the file names none). */
    public final int label;
    public final String name;
    /** From the input to this answer. */
    public final double ms;
    /** The exit that was taken, from 0; -1 if the way of running has none. */
    public final int exit;
    /** Where that exit is; null if there is none, or the file does not say. */
    public final ExitPlace place;
    /** The sub-network that answered, from 1; 0 if the way of running has none. */
    public final int step;
    /** Whether a later step was started but ended after the deadline. */
    public final boolean late;
    /** Share of the gates that were open; NaN if they were not asked for. */
    public final double openRate;
    /** MACs that ran, exact to a thousand, and of the whole net (0 if the file does not say). */
    public final long executedMacs, wholeMacs;

    Result(int label, String name, double ms, int exit, ExitPlace place, int step, boolean late,
            double openRate, long executedMacs, long wholeMacs) {
        this.label = label;
        this.name = name;
        this.ms = ms;
        this.exit = exit;
        this.place = place;
        this.step = step;
        this.late = late;
        this.openRate = openRate;
        this.executedMacs = executedMacs;
        this.wholeMacs = wholeMacs;
    }

    /** Executed MACs over those of the whole net; NaN if these are not known. */
    public double share() {
        return wholeMacs > 0 ? (double) executedMacs / wholeMacs : Double.NaN;
    }
}
