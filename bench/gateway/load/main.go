// The load generator: so many connections, each with one request after another, and JSON about them at the end.
//
// One thread over epoll. It reads every answer to its end as HTTP/1.1 has it, counts the events of a stream, and takes
// anything but the whole of what was asked for as an error.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What the parser waits for.
const (
	head = iota
	body
	chunkSize
	chunkData
	chunkEnd
	trailer
)

// How long to let unpaced streams come together before they are read.
const gather = 200 * time.Microsecond

// A connection that failed is opened again after this long, so that errors cannot become a storm.
const pause = 10 * time.Millisecond

// IP_BIND_ADDRESS_NO_PORT of ip(7): the port is chosen for the pair of addresses, so that each source has all ports.
const bindAddressNoPort = 24

type connection struct {
	fd         int
	number     int
	asked      time.Time
	last       time.Time
	partial    []byte
	state      int
	left       int
	lines      int
	status     int
	size       int
	closing    bool
	unsent     []byte
	requests   int
	connecting bool
	blocked    bool
}

type report struct {
	Seconds  float64 `json:"seconds"`
	Requests int     `json:"requests"`
	Events   int     `json:"events"`
	Open     int     `json:"open"`
	// Since the start, with the warm-up.
	Answered int            `json:"answered"`
	Received int            `json:"received"`
	Errors   map[string]int `json:"errors"`
	Latency  percentiles    `json:"latency"`
	First    percentiles    `json:"first"`
	Gap      percentiles    `json:"gap"`
}

// percentiles are in milliseconds.
type percentiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

type generator struct {
	address     *syscall.SockaddrInet4
	source      *syscall.SockaddrInet4
	requests    [][]byte
	epoll       int
	connections map[int]*connection
	starts      []start
	rests       []rest
	idle        time.Duration
	lines       int
	hold        bool
	paced       bool
	from, until time.Time
	now         time.Time
	read        []byte
	report      report
	latency     []time.Duration
	first       []time.Duration
	gap         []time.Duration
}

// start is a connection that is to be opened.
type start struct {
	at     time.Time
	number int
}

// rest is a connection that has had its answer and asks again later.
type rest struct {
	until  time.Time
	client *connection
}

func main() {
	target := flag.String("target", "127.0.0.1:8000", "address and port")
	connections := flag.Int("connections", 1, "connections, each with one request at a time")
	seconds := flag.Float64("seconds", 1, "measure for so long")
	warm := flag.Float64("warm", 0, "before that, ask for so long without measuring")
	ramp := flag.Float64("ramp", 0, "open the connections over so many seconds, the first of them of the warm-up")
	tokens := flag.Int("tokens", 0, "stream so many tokens; 0: do not stream")
	rate := flag.Int("rate", 0, "so many tokens a second; 0: as fast as they are read")
	burst := flag.Int("burst", 1, "without a rate, let the engine write so many events at a time")
	size := flag.Int("size", 2048, "bytes of a request's body, more or less")
	prompts := flag.Int("prompts", 64, "different prompts")
	model := flag.String("model", "mock", "the model")
	key := flag.String("key", "", "API key")
	hold := flag.Bool("hold", false, "expect no answer before the end")
	idle := flag.Float64("idle", 0, "after each answer, say nothing on its connection for so many seconds")
	source := flag.String("source", "", "address to connect from")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	debug.SetGCPercent(800)
	address, err := net.ResolveTCPAddr("tcp4", *target)
	if err != nil {
		log.Fatal(err)
	}
	epoll, err := syscall.EpollCreate1(0)
	if err != nil {
		log.Fatal(err)
	}
	began := time.Now()
	generator := &generator{
		address:     &syscall.SockaddrInet4{Port: address.Port, Addr: [4]byte(address.IP.To4())},
		epoll:       epoll,
		connections: map[int]*connection{},
		hold:        *hold,
		idle:        time.Duration(*idle * float64(time.Second)),
		paced:       *rate > 0,
		from:        began.Add(time.Duration(*warm * float64(time.Second))),
		until:       began.Add(time.Duration((*warm + *seconds) * float64(time.Second))),
		now:         began,
		read:        make([]byte, 1<<18),
		report:      report{Seconds: *seconds, Errors: map[string]int{}},
	}
	if *source != "" {
		generator.source = &syscall.SockaddrInet4{Addr: [4]byte(net.ParseIP(*source).To4())}
	}
	// What the mock engine makes of a seed.
	seed := *rate
	if seed == 0 && *burst > 1 {
		seed = -*burst
	}
	for number := range *prompts {
		generator.requests = append(generator.requests, render(*target, *key, *model, *tokens, seed, *size, number))
	}
	if *tokens > 0 {
		// An event for the role, one for each token, [DONE]; two line feeds each.
		generator.lines = 2 * (*tokens + 2)
	}
	for number := range *connections {
		after := time.Duration(*ramp * float64(time.Second) * float64(number) / float64(*connections))
		generator.starts = append(generator.starts, start{began.Add(after), number})
	}
	generator.run()
	generator.finish()
}

func render(target, key, model string, tokens, seed, size, number int) []byte {
	words := rand.New(rand.NewPCG(7, uint64(number)))
	// Three quarters of a prompt are a system prompt that others share.
	system := prose(rand.New(rand.NewPCG(8, uint64(number%8))), size*3/5)
	said := map[string]any{
		"model":    model,
		"messages": []map[string]string{{"role": "system", "content": system}, {"role": "user", "content": prose(words, size/5)}},
	}
	if tokens > 0 {
		said["stream"], said["max_tokens"] = true, tokens
		if seed != 0 {
			said["seed"] = seed
		}
	}
	text, err := json.Marshal(said)
	if err != nil {
		log.Fatal(err)
	}
	lines := []string{
		"POST /v1/chat/completions HTTP/1.1",
		"Host: " + target,
		"Accept-Encoding: gzip, deflate",
		"Connection: keep-alive",
		"Accept: application/json",
		"Content-Type: application/json",
		"User-Agent: OpenAI/Python 3.52.0",
		"X-Stainless-Lang: python",
		"X-Stainless-Async: false",
	}
	if key != "" {
		lines = append(lines, "Authorization: Bearer "+key)
	}
	return fmt.Appendf(nil, "%s\r\nContent-Length: %d\r\n\r\n%s", strings.Join(lines, "\r\n"), len(text), text)
}

func prose(source *rand.Rand, size int) string {
	words := strings.Fields("a lull is the time in which nothing asks anything of a machine so that it may sleep and be woken by whoever comes first")
	var text strings.Builder
	for text.Len() < size {
		text.WriteString(words[source.IntN(len(words))])
		text.WriteByte(' ')
	}
	return text.String()
}

func (g *generator) run() {
	ready := make([]syscall.EpollEvent, 1024)
	for g.now.Before(g.until) {
		for len(g.starts) > 0 && !g.starts[0].at.After(g.now) {
			next := g.starts[0]
			g.starts = g.starts[1:]
			g.open(next.number)
			g.now = time.Now()
		}
		for len(g.rests) > 0 && !g.rests[0].until.After(g.now) {
			client := g.rests[0].client
			g.rests = g.rests[1:]
			if g.connections[client.fd] == client {
				g.ask(client)
			}
		}
		wake := g.until
		if len(g.rests) > 0 && g.rests[0].until.Before(wake) {
			wake = g.rests[0].until
		}
		if len(g.starts) > 0 && g.starts[0].at.Before(wake) {
			wake = g.starts[0].at
		}
		timeout := int((wake.Sub(g.now) + time.Millisecond - 1) / time.Millisecond)
		count, err := syscall.EpollWait(g.epoll, ready, timeout)
		if err != nil && err != syscall.EINTR {
			log.Fatal(err)
		}
		g.now = time.Now()
		for index := range max(count, 0) {
			if client := g.connections[int(ready[index].Fd)]; client != nil {
				g.take(client, ready[index].Events)
			}
		}
		if g.lines > 0 && !g.paced && count < len(ready) {
			// Let events come together: a read for each would cost more than the gateway that is measured.
			_ = syscall.Nanosleep(&syscall.Timespec{Nsec: int64(gather)}, nil)
		}
	}
}

func (g *generator) open(number int) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = g.connect(fd); err != nil {
			_ = syscall.Close(fd)
		}
	}
	if err != nil {
		g.fail(fmt.Sprintf("connect: %v", err), number)
		return
	}
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	g.connections[fd] = &connection{fd: fd, number: number, requests: number, connecting: true}
	g.watch(syscall.EPOLL_CTL_ADD, fd, syscall.EPOLLOUT)
}

func (g *generator) connect(fd int) error {
	if g.source != nil {
		if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, bindAddressNoPort, 1); err != nil {
			return err
		}
		if err := syscall.Bind(fd, g.source); err != nil {
			return err
		}
		// A reset in the end: for a minute after anything else nobody could listen on the ports of so many.
		if err := syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1}); err != nil {
			return err
		}
	}
	if err := syscall.Connect(fd, g.address); err != syscall.EINPROGRESS {
		return err
	}
	return nil
}

func (g *generator) watch(change, fd int, what uint32) {
	if err := syscall.EpollCtl(g.epoll, change, fd, &syscall.EpollEvent{Events: what, Fd: int32(fd)}); err != nil {
		log.Fatal(err)
	}
}

func (g *generator) take(client *connection, what uint32) {
	if client.connecting {
		if code, err := syscall.GetsockoptInt(client.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || code != 0 {
			g.drop(client, fmt.Sprintf("connect: %v", syscall.Errno(code)))
			return
		}
		client.connecting = false
		g.watch(syscall.EPOLL_CTL_MOD, client.fd, syscall.EPOLLIN)
		g.ask(client)
		return
	}
	if what&syscall.EPOLLOUT != 0 && !g.flush(client) {
		return
	}
	if what&^syscall.EPOLLOUT != 0 {
		g.receive(client)
	}
}

func (g *generator) fail(why string, number int) {
	if !g.now.Before(g.from) || strings.HasPrefix(why, "connect") {
		g.report.Errors[why]++
	} else {
		g.report.Errors["warm-up: "+why]++
	}
	g.starts = append(g.starts, start{g.now.Add(pause), number})
	slices.SortFunc(g.starts, func(one, other start) int { return one.at.Compare(other.at) })
}

func (g *generator) drop(client *connection, why string) {
	delete(g.connections, client.fd)
	_ = syscall.Close(client.fd)
	g.fail(why, client.number)
}

func (g *generator) ask(client *connection) {
	request := g.requests[client.requests%len(g.requests)]
	client.requests++
	client.asked, client.last = time.Now(), time.Time{}
	client.state, client.lines, client.partial = head, 0, client.partial[:0]
	client.unsent = request
	g.flush(client)
}

// flush sends what the socket takes; false where the connection is gone.
func (g *generator) flush(client *connection) bool {
	sent, err := syscall.Write(client.fd, client.unsent)
	if err != nil && err != syscall.EAGAIN && err != syscall.EINTR {
		g.drop(client, fmt.Sprintf("write: %v", err))
		return false
	}
	client.unsent = client.unsent[max(sent, 0):]
	if what := uint32(syscall.EPOLLIN); len(client.unsent) > 0 {
		g.watch(syscall.EPOLL_CTL_MOD, client.fd, what|syscall.EPOLLOUT)
		client.blocked = true
	} else if client.blocked {
		g.watch(syscall.EPOLL_CTL_MOD, client.fd, what)
		client.blocked = false
	}
	return true
}

func (g *generator) receive(client *connection) {
	count, err := syscall.Read(client.fd, g.read)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return
	}
	if err != nil {
		g.drop(client, fmt.Sprintf("read: %v", err))
		return
	}
	if count == 0 {
		g.drop(client, "closed before the end of the answer")
		return
	}
	lines := client.lines
	whole, err := g.parse(client, g.read[:count])
	if err != nil {
		g.drop(client, err.Error())
		return
	}
	if events := (client.lines - lines) / 2; events > 0 {
		g.count(client, events)
	}
	if whole {
		g.complete(client)
	}
}

func (g *generator) count(client *connection, events int) {
	g.report.Received += events
	if !g.now.Before(g.from) {
		g.report.Events += events
		if g.paced && client.last.IsZero() {
			g.first = append(g.first, g.now.Sub(client.asked))
		} else if g.paced {
			g.gap = append(g.gap, g.now.Sub(client.last))
		}
	}
	client.last = g.now
}

func (g *generator) complete(client *connection) {
	switch {
	case client.status != 200:
		g.drop(client, fmt.Sprintf("status %d", client.status))
		return
	case g.lines > 0 && client.lines != g.lines:
		g.drop(client, fmt.Sprintf("%d line feeds instead of %d", client.lines, g.lines))
		return
	case g.lines == 0 && client.size == 0:
		g.drop(client, "empty answer")
		return
	}
	g.report.Answered++
	if !g.now.Before(g.from) {
		g.report.Requests++
		g.latency = append(g.latency, time.Since(client.asked))
	}
	if client.closing {
		delete(g.connections, client.fd)
		_ = syscall.Close(client.fd)
		g.open(client.number)
		return
	}
	if g.idle > 0 {
		g.rests = append(g.rests, rest{time.Now().Add(g.idle), client})
		return
	}
	g.ask(client)
}

// parse reads on in an answer; true where it is whole.
func (g *generator) parse(client *connection, read []byte) (bool, error) {
	for len(read) > 0 {
		switch client.state {
		case head:
			line, rest, ok := client.until(read, "\r\n\r\n")
			if !ok {
				return false, nil
			}
			read = rest
			if err := client.parseHead(line); err != nil {
				return false, err
			}
			if client.state == body && client.left == 0 {
				return true, nil
			}
		case body, chunkData:
			size := min(client.left, len(read))
			client.lines += bytes.Count(read[:size], []byte{'\n'})
			client.size += size
			client.left -= size
			read = read[size:]
			if client.left > 0 {
				return false, nil
			}
			if client.state == body {
				return true, extra(read)
			}
			client.state = chunkEnd
		case chunkEnd:
			_, rest, ok := client.until(read, "\r\n")
			if !ok {
				return false, nil
			}
			read, client.state = rest, chunkSize
		case chunkSize:
			line, rest, ok := client.until(read, "\r\n")
			if !ok {
				return false, nil
			}
			size, err := strconv.ParseUint(string(line[:len(line)-2]), 16, 31)
			if err != nil {
				return false, errors.New("no chunk size where one should be")
			}
			read, client.left, client.state = rest, int(size), chunkData
			if size == 0 {
				client.state = trailer
			}
		case trailer:
			_, rest, ok := client.until(read, "\r\n")
			if !ok {
				return false, nil
			}
			return true, extra(rest)
		}
	}
	return false, nil
}

func extra(read []byte) error {
	if len(read) > 0 {
		return errors.New("more than one answer")
	}
	return nil
}

// until cuts what was read after a mark; what came before the mark in earlier reads is kept until it comes.
func (c *connection) until(read []byte, mark string) (line, rest []byte, ok bool) {
	if len(c.partial) > 0 {
		seen := len(c.partial)
		c.partial = append(c.partial, read...)
		at := bytes.Index(c.partial, []byte(mark))
		if at < 0 {
			return nil, nil, false
		}
		line, rest = c.partial[:at+len(mark)], read[at+len(mark)-seen:]
		c.partial = c.partial[:0]
		return line, rest, true
	}
	at := bytes.Index(read, []byte(mark))
	if at < 0 {
		c.partial = append(c.partial, read...)
		return nil, nil, false
	}
	return read[:at+len(mark)], read[at+len(mark):], true
}

func (c *connection) parseHead(head []byte) error {
	status, err := strconv.Atoi(string(head[min(9, len(head)):min(12, len(head))]))
	if err != nil {
		return errors.New("no status where one should be")
	}
	c.status, c.size, c.left, c.closing = status, 0, -1, false
	c.state = body
	for line := range bytes.Lines(head) {
		name, value, found := bytes.Cut(line, []byte{':'})
		if !found {
			continue
		}
		switch value = bytes.TrimSpace(value); {
		case len(name) == 14 && bytes.EqualFold(name, []byte("content-length")):
			if c.left, err = strconv.Atoi(string(value)); err != nil {
				return errors.New("no length where one should be")
			}
		case len(name) == 17 && bytes.EqualFold(name, []byte("transfer-encoding")):
			c.state, c.left = chunkSize, 0
		case len(name) == 10 && bytes.EqualFold(name, []byte("connection")):
			c.closing = bytes.EqualFold(value, []byte("close"))
		}
	}
	if c.left < 0 {
		return errors.New("neither length nor chunks")
	}
	return nil
}

func (g *generator) finish() {
	g.report.Open = len(g.connections)
	g.report.Latency = summarize(g.latency)
	g.report.First = summarize(g.first)
	g.report.Gap = summarize(g.gap)
	if g.idle > 0 {
		g.report.Open = 0
		for _, client := range g.connections {
			// It has had an answer.
			if client.status == 200 {
				g.report.Open++
			}
		}
	}
	if g.hold {
		g.report.Open = 0
		for _, client := range g.connections {
			if client.status == 0 || (client.status == 200 && client.state != head) {
				g.report.Open++
			}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(g.report); err != nil {
		log.Fatal(err)
	}
}

func summarize(values []time.Duration) percentiles {
	if len(values) == 0 {
		return percentiles{}
	}
	slices.Sort(values)
	at := func(percent int) float64 {
		return float64(values[max(0, (len(values)*percent+99)/100-1)]) / float64(time.Millisecond)
	}
	return percentiles{at(50), at(90), at(99), at(100)}
}
