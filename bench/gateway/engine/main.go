// The mock engine: answers like vLLM's API server, and costs next to nothing, so that it is not what is measured.
//
// One thread over epoll, every byte rendered before the first request. What it streams it writes event by event, each
// as an HTTP chunk of its own, as uvicorn does: as fast as the reader takes them, or paced. A request says
// `max_tokens` for how many and `seed` for how many a second. Without a seed they are not paced; below zero it says how
// many events are written at a time.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"net"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
)

const (
	// Events that one stream may write before another has its turn.
	turn = 16
	// Slots of the timer wheel, a millisecond each.
	slots = 4096
	// The largest request.
	largest = 4 << 20
)

var (
	answer  = respond("200 OK", `{"id":"chatcmpl-3f0d4cf4f2a84e0f9f5d1c5c0f8e7a61","object":"chat.completion","created":1763730000,"model":"mock","choices":[{"index":0,"message":{"role":"assistant","content":"Sleep is the cheapest state of a machine that nobody asks anything of.","refusal":null,"tool_calls":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":128,"total_tokens":144,"completion_tokens":16,"prompt_tokens_details":null}}`)
	models  = respond("200 OK", `{"object":"list","data":[{"id":"mock","object":"model","created":1763730000,"owned_by":"vllm","root":"mock","parent":null,"max_model_len":32768}]}`)
	healthy = respond("200 OK", "")
	waking  = respond("503 Service Unavailable", "")
	missing = respond("404 Not Found", `{"error":{"message":"Not Found","type":"NotFoundError","param":null,"code":404}}`)

	opening = []byte("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n")
	chat    = script(`{"role":"assistant","content":""}`, `{"content":" token"}`, "chat.completion.chunk", "delta")
	text    = script(`""`, `" token"`, "text_completion", "text")
	done    = chunk("data: [DONE]\n\n")
	end     = []byte("0\r\n\r\n")
)

// events are the chunks of one kind of stream, in the order in which they are sent.
type events struct{ first, token, last, usage []byte }

// stream is an answer that is not yet whole.
type stream struct {
	events
	tokens, sent int
	wantsUsage   bool
	every        time.Duration
	burst        int
	due          time.Time
}

// connection belongs to a client of the engine: a gateway, or the load generator itself.
type connection struct {
	fd       int
	request  []byte
	unsent   []byte
	stream   *stream
	runnable bool
	asleep   bool
}

type server struct {
	epoll, events int
	listeners     map[int]bool
	connections   map[int]*connection
	runnable      []*connection
	wheel         [slots][]*connection
	waiting       int
	tick          int64
	began         time.Time
	asleep        map[int]bool
	read          []byte
	together      []byte
}

func main() {
	ports := flag.Int("ports", 1, "listen on so many ports, as so many engines")
	port := flag.Int("port", 8000, "the first port")
	asleep := flag.Bool("asleep", false, "answer /health with 503, as an engine that does not serve yet")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	debug.SetGCPercent(400)
	epoll, err := syscall.EpollCreate1(0)
	if err != nil {
		log.Fatal(err)
	}
	server := &server{epoll: epoll, listeners: map[int]bool{}, connections: map[int]*connection{}, asleep: map[int]bool{}, began: time.Now(), read: make([]byte, 1<<18)}
	for number := range *ports {
		fd := listen(*port + number)
		server.listeners[fd] = true
		server.asleep[fd] = *asleep
		server.watch(syscall.EPOLL_CTL_ADD, fd, syscall.EPOLLIN)
	}
	server.run()
}

func listen(port int) int {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte(net.IPv4(127, 0, 0, 1).To4())})
	}
	if err == nil {
		err = syscall.Listen(fd, 4096)
	}
	if err != nil {
		log.Fatalf("port %d: %v", port, err)
	}
	return fd
}

func (s *server) watch(change, fd int, what uint32) {
	if err := syscall.EpollCtl(s.epoll, change, fd, &syscall.EpollEvent{Events: what, Fd: int32(fd)}); err != nil {
		log.Fatal(err)
	}
}

func (s *server) run() {
	ready := make([]syscall.EpollEvent, 1024)
	for {
		timeout := -1
		if len(s.runnable) > 0 {
			timeout = 0
		} else if s.waiting > 0 {
			timeout = 1
		}
		count, err := syscall.EpollWait(s.epoll, ready, timeout)
		if err != nil && err != syscall.EINTR {
			log.Fatal(err)
		}
		for index := range max(count, 0) {
			s.take(int(ready[index].Fd), ready[index].Events)
		}
		if s.waiting > 0 {
			s.turnWheel()
		}
		s.writeRunnable()
	}
}

func (s *server) take(fd int, what uint32) {
	if s.listeners[fd] {
		s.accept(fd)
		return
	}
	client := s.connections[fd]
	if client == nil {
		return
	}
	if what&syscall.EPOLLOUT != 0 {
		s.resume(client)
	}
	if what&(syscall.EPOLLIN|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		s.receive(client)
	}
}

func (s *server) accept(listener int) {
	for {
		fd, _, err := syscall.Accept4(listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		s.connections[fd] = &connection{fd: fd, asleep: s.asleep[listener]}
		s.watch(syscall.EPOLL_CTL_ADD, fd, syscall.EPOLLIN)
	}
}

func (s *server) drop(client *connection) {
	delete(s.connections, client.fd)
	client.stream = nil
	_ = syscall.Close(client.fd)
	client.fd = -1
}

func (s *server) receive(client *connection) {
	count, err := syscall.Read(client.fd, s.read)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return
	}
	if err != nil || count == 0 {
		s.drop(client)
		return
	}
	request := s.read[:count]
	if len(client.request) > 0 {
		client.request = append(client.request, request...)
		request = client.request
	}
	for len(request) > 0 && client.fd >= 0 {
		length, ok := measure(request)
		if !ok || length > largest {
			s.drop(client)
			return
		}
		if length == 0 || len(request) < length {
			break
		}
		s.answer(client, request[:length])
		request = request[length:]
	}
	client.request = append(client.request[:0], request...)
}

// measure says how long the first request is, 0 where its end has not come yet.
func measure(request []byte) (length int, ok bool) {
	head := bytes.Index(request, []byte("\r\n\r\n"))
	if head < 0 {
		return 0, len(request) < 1<<16
	}
	body := head + 4
	if value := header(request[:head+2], "content-length"); value != nil {
		size, err := strconv.Atoi(string(bytes.TrimSpace(value)))
		return body + size, err == nil
	}
	if header(request[:head+2], "transfer-encoding") == nil {
		return body, true
	}
	// Enough for JSON without a pause of the sender's within "0\r\n\r\n": no JSON of ours contains it.
	if end := bytes.Index(request[body:], []byte("\r\n0\r\n\r\n")); end >= 0 {
		return body + end + 7, true
	}
	return 0, true
}

func header(head []byte, name string) []byte {
	for line := range bytes.Lines(head) {
		if len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return line[len(name)+1:]
		}
	}
	return nil
}

func (s *server) answer(client *connection, request []byte) {
	line := request[:bytes.IndexByte(request, '\r')]
	switch {
	case bytes.HasPrefix(line, []byte("POST /v1/chat/completions ")):
		s.complete(client, request, chat)
	case bytes.HasPrefix(line, []byte("POST /v1/completions ")):
		s.complete(client, request, text)
	case bytes.HasPrefix(line, []byte("GET /health ")) && client.asleep:
		s.write(client, waking)
	case bytes.HasPrefix(line, []byte("GET /health ")):
		s.write(client, healthy)
	case bytes.HasPrefix(line, []byte("GET /v1/models ")):
		s.write(client, models)
	default:
		s.write(client, missing)
	}
}

func (s *server) complete(client *connection, request []byte, events events) {
	if !says(request, "stream") {
		s.write(client, answer)
		return
	}
	client.stream = &stream{events: events, tokens: max(1, number(request, "max_tokens", 16)), wantsUsage: says(request, "include_usage")}
	s.write(client, opening)
	seed := number(request, "seed", 0)
	client.stream.burst = max(1, -seed)
	if seed > 0 {
		client.stream.every = time.Second / time.Duration(seed)
		client.stream.due = time.Now()
		s.wait(client)
		return
	}
	s.enqueue(client)
}

func says(request []byte, name string) bool {
	value := field(request, name)
	return bytes.HasPrefix(value, []byte("true"))
}

func number(request []byte, name string, otherwise int) int {
	value := field(request, name)
	size := 0
	if len(value) > 0 && value[0] == '-' {
		size++
	}
	for size < len(value) && '0' <= value[size] && value[size] <= '9' {
		size++
	}
	if found, err := strconv.Atoi(string(value[:size])); err == nil {
		return found
	}
	return otherwise
}

// field is what follows a name in JSON; good enough for bodies whose texts do not quote such names.
func field(request []byte, name string) []byte {
	at := bytes.LastIndex(request, []byte(`"`+name+`":`))
	if at < 0 {
		return nil
	}
	return bytes.TrimLeft(request[at+len(name)+3:], " ")
}

// next is what the stream says next, nil where it has said everything.
func (s *stream) next() []byte {
	at := s.sent
	s.sent++
	switch {
	case at == 0:
		return s.first
	case at < s.tokens:
		return s.token
	case at == s.tokens:
		return s.last
	}
	at -= s.tokens + 1
	if !s.wantsUsage {
		at++
	}
	switch at {
	case 0:
		return s.usage
	case 1:
		return done
	case 2:
		return end
	}
	return nil
}

// write sends what the socket takes and keeps the rest; false where there is a rest.
func (s *server) write(client *connection, what []byte) bool {
	if client.fd < 0 {
		return false
	}
	if len(client.unsent) > 0 {
		client.unsent = append(client.unsent, what...)
		return false
	}
	sent, err := syscall.Write(client.fd, what)
	if err != nil && err != syscall.EAGAIN && err != syscall.EINTR {
		s.drop(client)
		return false
	}
	if sent = max(sent, 0); sent < len(what) {
		client.unsent = append(client.unsent, what[sent:]...)
		s.watch(syscall.EPOLL_CTL_MOD, client.fd, syscall.EPOLLIN|syscall.EPOLLOUT)
		return false
	}
	return true
}

func (s *server) resume(client *connection) {
	what := client.unsent
	client.unsent = nil
	s.watch(syscall.EPOLL_CTL_MOD, client.fd, syscall.EPOLLIN)
	if s.write(client, what) && client.stream != nil && client.stream.every == 0 {
		s.enqueue(client)
	}
}

func (s *server) enqueue(client *connection) {
	if !client.runnable {
		client.runnable = true
		s.runnable = append(s.runnable, client)
	}
}

func (s *server) writeRunnable() {
	turns := s.runnable
	s.runnable = nil
	for _, client := range turns {
		client.runnable = false
		if client.fd < 0 || client.stream == nil || len(client.unsent) > 0 {
			continue
		}
		for written := 0; client.stream != nil; written++ {
			if written*client.stream.burst >= turn {
				s.enqueue(client)
				break
			}
			if !s.step(client) {
				break
			}
		}
	}
}

// step writes an event, or as many as come at a time, the last ones together with the end of the answer; false where
// the socket is full.
func (s *server) step(client *connection) bool {
	stream := client.stream
	if stream.sent+stream.burst <= stream.tokens+1 && stream.burst == 1 {
		return s.write(client, stream.next())
	}
	s.together = s.together[:0]
	for number := 0; number < stream.burst || stream.sent > stream.tokens+1; number++ {
		what := stream.next()
		if what == nil {
			client.stream = nil
			break
		}
		s.together = append(s.together, what...)
	}
	return s.write(client, s.together)
}

func (s *server) wait(client *connection) {
	if s.waiting == 0 {
		s.tick = int64(time.Since(s.began) / time.Millisecond)
	}
	// A slot that is over comes again only after a whole turn.
	slot := max(int64(client.stream.due.Sub(s.began)/time.Millisecond), s.tick+1) % slots
	s.wheel[slot] = append(s.wheel[slot], client)
	s.waiting++
}

// turnWheel writes what is due. Pace is kept by the clock: a slow reader does not make its stream slower, as a slow
// client does not make an engine compute slower.
func (s *server) turnWheel() {
	until := int64(time.Since(s.began) / time.Millisecond)
	for s.tick < until && s.waiting > 0 {
		s.tick++
		slot := s.tick % slots
		due := s.wheel[slot]
		s.wheel[slot] = nil
		s.waiting -= len(due)
		for _, client := range due {
			if client.fd < 0 || client.stream == nil {
				continue
			}
			s.step(client)
			if client.stream != nil {
				client.stream.due = client.stream.due.Add(client.stream.every)
				s.wait(client)
			}
		}
		if s.wheel[slot] == nil {
			s.wheel[slot] = due[:0]
		}
	}
}

func respond(status, body string) []byte {
	kind := ""
	if body != "" {
		kind = "content-type: application/json\r\n"
	}
	return fmt.Appendf(nil, "HTTP/1.1 %s\r\nserver: uvicorn\r\n%scontent-length: %d\r\n\r\n%s", status, kind, len(body), body)
}

func chunk(event string) []byte {
	return fmt.Appendf(nil, "%x\r\n%s\r\n", len(event), event)
}

func script(first, token, object, name string) events {
	render := func(choices, usage string) []byte {
		return chunk(fmt.Sprintf(`data: {"id":"chatcmpl-3f0d4cf4f2a84e0f9f5d1c5c0f8e7a61","object":"%s","created":1763730000,"model":"mock","choices":[%s]%s}`+"\n\n", object, choices, usage))
	}
	choice := func(value, reason string) string {
		return fmt.Sprintf(`{"index":0,"%s":%s,"logprobs":null,"finish_reason":%s}`, name, value, reason)
	}
	return events{
		first: render(choice(first, "null"), ""),
		token: render(choice(token, "null"), ""),
		last:  render(choice(token, `"stop"`), ""),
		usage: render("", `,"usage":{"prompt_tokens":128,"total_tokens":144,"completion_tokens":16}`),
	}
}
