// Kpa reads series of signals and prints what Knative's own autoscaler decides on them.
//
// Standard input: a JSON array of cases. Standard output: for each case an array of what was wanted at each signal, -1
// where Knative had nothing to decide on.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/types"
	"knative.dev/serving/pkg/apis/autoscaling"
	"knative.dev/serving/pkg/autoscaler/aggregation"
	"knative.dev/serving/pkg/autoscaler/metrics"
	"knative.dev/serving/pkg/autoscaler/scaling"
)

type testcase struct {
	Target         float64  `json:"target"`
	StableSeconds  float64  `json:"stable_window"`
	PanicSeconds   float64  `json:"panic_window"`
	PanicThreshold float64  `json:"panic_threshold"`
	MaxUpRate      float64  `json:"max_up_rate"`
	MaxDownRate    float64  `json:"max_down_rate"`
	DownDelay      float64  `json:"down_delay"`
	Signals        []signal `json:"signals"`
}

type signal struct {
	At          float64 `json:"at"`
	Ready       int     `json:"ready"`
	Concurrency float64 `json:"concurrency"`
}

// bucket is the width of the autoscaler's buckets: what config.BucketSize is in Knative.
const bucket = time.Second

type readings struct{ stable, panicking *aggregation.TimedFloat64Buckets }

func (r readings) StableAndPanicConcurrency(_ types.NamespacedName, now time.Time) (float64, float64, error) {
	if r.panicking.IsEmpty(now) && r.stable.IsEmpty(now) {
		return 0, 0, metrics.ErrNoData
	}
	return r.stable.WindowAverage(now), r.panicking.WindowAverage(now), nil
}

func (r readings) StableAndPanicRPS(types.NamespacedName, time.Time) (float64, float64, error) {
	return 0, 0, metrics.ErrNoData
}

type pods struct{ ready int }

func (p *pods) ReadyCount() (int, error)    { return p.ready, nil }
func (p *pods) NotReadyCount() (int, error) { return 0, nil }

func main() {
	var cases []testcase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		log.Fatal(err)
	}
	decided := make([][]int32, 0, len(cases))
	for _, each := range cases {
		decided = append(decided, decide(each))
	}
	if err := json.NewEncoder(os.Stdout).Encode(decided); err != nil {
		log.Fatal(err)
	}
}

func decide(given testcase) []int32 {
	seen := readings{
		aggregation.NewTimedFloat64Buckets(seconds(given.StableSeconds), bucket),
		aggregation.NewTimedFloat64Buckets(seconds(given.PanicSeconds), bucket),
	}
	counted := &pods{}
	scaler := scaling.New(context.Background(), "namespace", "revision", seen, counted, &scaling.DeciderSpec{
		MaxScaleUpRate:   given.MaxUpRate,
		MaxScaleDownRate: given.MaxDownRate,
		ScalingMetric:    autoscaling.Concurrency,
		TargetValue:      given.Target,
		TotalValue:       given.Target,
		PanicThreshold:   given.PanicThreshold,
		StableWindow:     seconds(given.StableSeconds),
		ScaleDownDelay:   seconds(given.DownDelay),
		Reachable:        true,
	})
	wanted := make([]int32, 0, len(given.Signals))
	for _, each := range given.Signals {
		now := time.Unix(0, 0).Add(seconds(each.At))
		counted.ready = each.Ready
		// The scraper reports every second, the autoscaler looks every other.
		for _, at := range []time.Time{now.Add(-bucket), now} {
			seen.stable.Record(at, each.Concurrency)
			seen.panicking.Record(at, each.Concurrency)
		}
		result := scaler.Scale(zap.NewNop().Sugar(), now)
		if !result.ScaleValid {
			result.DesiredPodCount = -1
		}
		wanted = append(wanted, result.DesiredPodCount)
	}
	return wanted
}

func seconds(count float64) time.Duration {
	return time.Duration(count * float64(time.Second))
}
