module lull.dev/bench/gateway/load

go 1.26.0
