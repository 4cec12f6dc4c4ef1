import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;
import java.util.TimeZone;
import org.quartz.CronExpression;

/** Says what Quartz does with the expressions of its dialect: a line in, a line out. */
public class Quartz {
    static String next(String zone, String start, String text) {
        CronExpression expression;
        try {
            expression = new CronExpression(text);
        } catch (Exception e) {
            return "error";
        }
        expression.setTimeZone(TimeZone.getTimeZone(zone));
        List<String> times = new ArrayList<>();
        Date at = Date.from(Instant.parse(start));
        while (times.size() < 4) {
            at = expression.getNextValidTimeAfter(at);
            if (at == null) {
                break;
            }
            times.add(at.toInstant().toString());
        }
        return times.isEmpty() ? "never" : String.join(",", times);
    }

    public static void main(String[] args) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] cell = line.split("\t");
            System.out.println(next(cell[1], cell[2], cell[3]));
        }
    }
}
