package org.kerasdyngate;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads JSON as Python's json module writes it, NaN and Infinity included: into Map, List,
 * String, Double, Boolean and null. Android has a reader, a desktop JVM has none.
 */
final class Json {
    private static final int DEEPEST = 64;

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** Throws IllegalArgumentException for anything but one whole JSON value. */
    static Object parse(String text) {
        Json json = new Json(text);
        Object value = json.value(0);
        if (json.next() != 0 || json.at < text.length()) throw json.unexpected();
        return value;
    }

    private IllegalArgumentException unexpected() {
        String found = at < text.length() ? "'" + text.charAt(at) + "'" : "its end";
        return new IllegalArgumentException(
                "The text must be JSON. Received: " + found + " at character " + at);
    }

    /** The next character that is no space, not consumed; 0 at the end. */
    private char next() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
        return at < text.length() ? text.charAt(at) : 0;
    }

    private boolean take(String word) {
        boolean found = text.startsWith(word, at);
        if (found) at += word.length();
        return found;
    }

    private void expect(String word) {
        next();
        if (!take(word)) throw unexpected();
    }

    private Object value(int depth) {
        if (depth > DEEPEST) throw unexpected();
        switch (next()) {
            case '{':
                return object(depth);
            case '[':
                return array(depth);
            case '"':
                return string();
            default:
                if (take("true")) return true;
                if (take("false")) return false;
                if (take("null")) return null;
                if (take("NaN")) return Double.NaN;
                if (take("Infinity")) return Double.POSITIVE_INFINITY;
                if (take("-Infinity")) return Double.NEGATIVE_INFINITY;
                return number();
        }
    }

    private Map<String, Object> object(int depth) {
        Map<String, Object> found = new LinkedHashMap<>();
        expect("{");
        if (next() == '}') {
            at++;
            return found;
        }
        while (true) {
            if (next() != '"') throw unexpected();
            String key = string();
            expect(":");
            found.put(key, value(depth + 1));
            if (next() != ',') break;
            at++;
        }
        expect("}");
        return found;
    }

    private List<Object> array(int depth) {
        List<Object> found = new ArrayList<>();
        expect("[");
        if (next() == ']') {
            at++;
            return found;
        }
        while (true) {
            found.add(value(depth + 1));
            if (next() != ',') break;
            at++;
        }
        expect("]");
        return found;
    }

    private String string() {
        StringBuilder found = new StringBuilder();
        for (at++; at < text.length(); at++) {
            char c = text.charAt(at);
            if (c == '"') {
                at++;
                return found.toString();
            }
            if (c < ' ') break;
            found.append(c == '\\' ? escaped() : c);
        }
        throw unexpected();
    }

    /** What a backslash stands for; ends on the last character of it. */
    private char escaped() {
        at++;
        int simple = at < text.length() ? "\"\\/bfnrt".indexOf(text.charAt(at)) : -1;
        if (simple >= 0) return "\"\\/\b\f\n\r\t".charAt(simple);
        if (!take("u") || at + 4 > text.length()) throw unexpected();
        int code = 0;
        for (int end = at + 4; at < end; at++) {
            int digit = Character.digit(text.charAt(at), 16);
            if (digit < 0 || text.charAt(at) > 'f') throw unexpected();
            code = 16 * code + digit;
        }
        at--;
        return (char) code;
    }

    private Double number() {
        int start = at;
        while (at < text.length() && "+-.eE0123456789".indexOf(text.charAt(at)) >= 0) at++;
        String found = text.substring(start, at);
        if (!found.matches("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")) {
            at = start;
            throw unexpected();
        }
        return Double.valueOf(found);
    }
}
