module lull.dev/bench/gateway/engine

go 1.26.0
