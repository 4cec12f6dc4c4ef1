// Package checks runs the checks of ../checks.txt: it prints a line for each and compares replies with
// ../replies.tsv. It knows nothing of a client, so that programs on different clients share it.
package checks

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"strings"
	"time"
)

const (
	// Patience is how long a check waits for something the broker has to send.
	Patience        = 10 * time.Second
	programPatience = 120 * time.Second
)

// URL is the broker's address.
var URL = env("AMQP_URL", "amqp://guest:guest@localhost:5672/")

var prefix = fmt.Sprintf("interop.%s.%d.", filepath.Base(os.Args[0]), os.Getpid())

// NamesUsed holds every name a check gave to a queue or exchange.
var NamesUsed = map[string]bool{}

// Reply is an error of the broker: "channel" or "connection", its code and its text.
type Reply struct {
	Level string
	Code  int
	Text  string
}

func (r Reply) String() string { return fmt.Sprintf("%s %d %s", r.Level, r.Code, r.Text) }

// wrong is the panic of a check that did not see what it expected, skip that of one the client cannot make.
type (
	wrong string
	skip  string
)

// Expect ends the check when the two differ.
func Expect(expected, got any) {
	if !reflect.DeepEqual(expected, got) {
		Fail("expected %v got %v", expected, got)
	}
}

// Fail ends the check; say "expected .. got ..".
func Fail(format string, args ...any) { panic(wrong(fmt.Sprintf(format, args...))) }

// Skip ends the check without a verdict.
func Skip(reason string) { panic(skip(reason)) }

// Must ends the check when there is an error.
func Must(err error) {
	if err != nil {
		Fail("expected no error got %v", err)
	}
}

// Value is Must for a call that returns something.
func Value[T any](value T, err error) T {
	Must(err)
	return value
}

// Next receives from a channel, at most Patience.
func Next[T any](from <-chan T, what string) T {
	select {
	case value, open := <-from:
		if !open {
			Fail("expected %s got a closed channel", what)
		}
		return value
	case <-time.After(Patience):
		Fail("expected %s within %s got nothing", what, Patience)
	}
	panic("unreachable")
}

// Name is the name of a queue or exchange of this run. It is taken out of reply texts again.
func Name(short string) string {
	NamesUsed[prefix+short] = true
	return prefix + short
}

// Check is one of ../checks.txt. Run returns the reply it provoked when it is about an error.
type Check struct {
	Name string
	Run  func() *Reply
}

// Main runs the checks whose names start with an argument of the command line, or all.
func Main(all []Check, cleanUp func()) {
	time.AfterFunc(programPatience, func() {
		debug.SetTraceback("all")
		panic("the program did not end")
	})
	accepted := acceptedReplies()
	failed := 0
	for _, check := range all {
		if !selected(check.Name) {
			continue
		}
		reply, err := run(check)
		var skipped skipError
		switch {
		case errors.As(err, &skipped):
			fmt.Printf("skip %s: %s\n", check.Name, skipped)
		case err != nil:
			failed++
			fmt.Printf("FAIL %s: %s\n", check.Name, err)
		case reply == nil:
			fmt.Printf("ok %s\n", check.Name)
		default:
			reply.Text = strings.ReplaceAll(reply.Text, prefix, "")
			wanted := []string{}
			for _, r := range accepted[check.Name] {
				wanted = append(wanted, r.String())
			}
			verdict := "ok %s: %[3]s\n"
			if !contains(wanted, reply.String()) {
				failed++
				verdict = "FAIL %s: expected %s got %s\n"
			}
			fmt.Printf(verdict, check.Name, strings.Join(wanted, " or "), reply)
		}
	}
	cleanUp()
	if failed > 0 {
		os.Exit(1)
	}
}

type skipError string

func (e skipError) Error() string { return string(e) }

func run(check Check) (reply *Reply, err error) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case wrong:
			err = errors.New(string(e))
		case skip:
			err = skipError(e)
		default:
			log.Printf("%s: %v\n%s", check.Name, e, debug.Stack())
			err = fmt.Errorf("expected no panic got %v", e)
		}
	}()
	return check.Run(), nil
}

// acceptedReplies reads replies.tsv; INTEROP_REPLIES (3.x or 4.x) leaves out the rows of the other version.
func acceptedReplies() map[string][]Reply {
	text, err := os.ReadFile(filepath.Join(env("INTEROP_DIR", ".."), "replies.tsv"))
	if err != nil {
		log.Fatalf("run me in interop-tests/go or set INTEROP_DIR: %s", err)
	}
	version := os.Getenv("INTEROP_REPLIES")
	rows := map[string][]Reply{}
	for line := range strings.Lines(string(text)) {
		columns := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(columns) != 5 || version != "" && columns[1] != version && columns[1] != "any" {
			continue
		}
		r := Reply{Level: columns[2], Text: columns[4]}
		if _, err := fmt.Sscan(columns[3], &r.Code); err != nil {
			log.Fatalf("replies.tsv: %q: %s", line, err)
		}
		rows[columns[0]] = append(rows[columns[0]], r)
	}
	return rows
}

func selected(name string) bool {
	for _, start := range os.Args[1:] {
		if strings.HasPrefix(name, start) {
			return true
		}
	}
	return len(os.Args) == 1
}

func contains(list []string, wanted string) bool {
	for _, s := range list {
		if s == wanted {
			return true
		}
	}
	return false
}

func env(key, otherwise string) string {
	if value := os.Getenv(key); value != "" {
		return value
	}
	return otherwise
}
