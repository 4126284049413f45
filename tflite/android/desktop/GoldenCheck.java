import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.LinkedHashMap;
import java.util.Map;
import org.kerasdyngate.SignatureModel;

/**
 * Runs golden cases: java GoldenCheck JNI_LIBRARY LITERT_LIBRARY GOLDEN_FOLDER FOUND_FOLDER
 *
 * <p>Every line of GOLDEN_FOLDER/cases.txt is run with GOLDEN_FOLDER/model.tflite; outputs go to
 * FOUND_FOLDER under the golden names, to be compared there.
 */
public final class GoldenCheck {
    public static void main(String[] arguments) throws IOException {
        System.load(arguments[0]);
        Path golden = Paths.get(arguments[2]), found = Paths.get(arguments[3]);
        Files.createDirectories(found);
        int cases = 0;
        ByteBuffer file = read(golden.resolve("model.tflite"));
        try (SignatureModel model = new SignatureModel(arguments[1], file, 1)) {
            for (String line : Files.readAllLines(golden.resolve("cases.txt"), StandardCharsets.UTF_8)) {
                run(model, line.split(" "), golden, found);
                cases++;
            }
        }
        if (cases == 0) throw new IOException("cases.txt must hold a case. Received: none");
        System.out.println("ran " + cases + " cases of " + golden.getFileName());
    }

    private static void run(SignatureModel model, String[] words, Path golden, Path found)
            throws IOException {
        Map<String, ByteBuffer> inputs = new LinkedHashMap<>();
        for (String word : words)
            if (word.contains("=") && !word.contains("=>"))
                inputs.put(before(word, "="), read(golden.resolve(after(word, "="))));
        Map<String, ByteBuffer> outputs = model.run(words[0], inputs);
        for (String word : words)
            if (word.contains("=>")) {
                ByteBuffer output = outputs.get(before(word, "=>"));
                byte[] bytes = new byte[output.remaining()];
                output.get(bytes);
                Files.write(found.resolve(after(word, "=>")), bytes);
            }
    }

    private static String before(String word, String sign) {
        return word.substring(0, word.indexOf(sign));
    }

    private static String after(String word, String sign) {
        return word.substring(word.indexOf(sign) + sign.length());
    }

    private static ByteBuffer read(Path path) throws IOException {
        byte[] bytes = Files.readAllBytes(path);
        ByteBuffer direct = SignatureModel.buffer(bytes.length);
        direct.put(bytes);
        direct.rewind();
        return direct;
    }
}
