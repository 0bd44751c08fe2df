// Hpa reads series of signals and prints what Kubernetes' own HorizontalPodAutoscaler controller decides on them.
//
// Standard input: a JSON array of cases. Standard output: for each case an array of replicas after each sync.
//
// The controller reads the clock itself, so each case runs in a bubble of testing/synctest, where time is what we say.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"testing"
	"testing/synctest"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/go-logr/logr"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	v1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	autoscalingclient "k8s.io/client-go/kubernetes/typed/autoscaling/v2"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	defaults "k8s.io/kubernetes/pkg/apis/autoscaling/v2"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
)

type testcase struct {
	Replicas  int32                                     `json:"replicas"`
	Sync      float64                                   `json:"sync"`
	Tolerance float64                                   `json:"tolerance"`
	Window    float64                                   `json:"window"`
	Spec      autoscalingv2.HorizontalPodAutoscalerSpec `json:"spec"`
	Signals   []signal                                  `json:"signals"`
}

// signal is what is true at one sync: so many replicas are ready at most, each of them with this metric; and what an
// external metric says of all of them together. Metrics are in thousandths.
type signal struct {
	Ready    int32            `json:"ready"`
	Each     int64            `json:"each"`
	External map[string]int64 `json:"external"`
}

// What the controller does at each sync of each object.
//
//go:linkname reconcile k8s.io/kubernetes/pkg/controller/podautoscaler.(*HorizontalController).reconcileAutoscaler
func reconcile(controller *podautoscaler.HorizontalController, ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, key string) error

const (
	namespace = "namespace"
	name      = "engines"
)

var selector = map[string]string{"app": name}

// world is a cluster with one Deployment and what is measured of it.
type world struct {
	metrics.MetricsClient
	replicas int32
	now      signal
	pods     cache.Indexer
}

func main() {
	klog.SetLogger(logr.Discard())
	var cases []testcase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		log.Fatal(err)
	}
	every := func(t *testing.T) {
		decided := make([][]int32, 0, len(cases))
		for _, each := range cases {
			around := &world{replicas: each.Replicas}
			controller := around.build(each)
			synctest.Test(t, func(*testing.T) { decided = append(decided, around.run(controller, each)) })
		}
		if err := json.NewEncoder(os.Stdout).Encode(decided); err != nil {
			log.Fatal(err)
		}
		os.Exit(0)
	}
	os.Args = os.Args[:1]
	testing.Main(func(_, _ string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "cases", F: every}}, nil, nil)
}

func (w *world) build(given testcase) *podautoscaler.HorizontalController {
	factory := informers.NewSharedInformerFactory(nil, 0)
	w.pods = factory.Core().V1().Pods().Informer().GetIndexer()
	return podautoscaler.NewHorizontalController(
		context.Background(), w, w, w, mapper{}, w,
		factory.Autoscaling().V2().HorizontalPodAutoscalers(), factory.Core().V1().Pods(),
		seconds(given.Sync), seconds(given.Window), given.Tolerance, 5*time.Minute, 30*time.Second,
	)
}

func (w *world) run(controller *podautoscaler.HorizontalController, given testcase) []int32 {
	hpa := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       given.Spec,
	}
	hpa.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}
	defaults.SetDefaults_HorizontalPodAutoscaler(hpa)
	decided := make([]int32, 0, len(given.Signals))
	for _, each := range given.Signals {
		w.now = each
		w.start()
		// What cannot be computed is an error and leaves the count as it is.
		_ = reconcile(controller, context.Background(), hpa, namespace+"/"+name)
		decided = append(decided, w.replicas)
		time.Sleep(seconds(given.Sync))
	}
	return decided
}

// start has as many pods run as are asked for; the first of them are ready.
func (w *world) start() {
	pods := make([]any, 0, w.replicas)
	for number := range w.replicas {
		ready := v1.ConditionFalse
		if number < w.now.Ready {
			ready = v1.ConditionTrue
		}
		pods = append(pods, &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: podName(number), Labels: selector},
			Status: v1.PodStatus{
				Phase:      v1.PodRunning,
				Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: ready}},
			},
		})
	}
	if err := w.pods.Replace(pods, ""); err != nil {
		log.Fatal(err)
	}
}

// GetRawMetric knows ready pods only: an engine that loads answers nobody.
func (w *world) GetRawMetric(string, string, labels.Selector, labels.Selector) (metrics.PodMetricsInfo, time.Time, error) {
	known := metrics.PodMetricsInfo{}
	for number := range min(w.replicas, w.now.Ready) {
		known[podName(number)] = metrics.PodMetric{Timestamp: time.Now(), Window: time.Minute, Value: w.now.Each}
	}
	return known, time.Now(), nil
}

func (w *world) GetExternalMetric(metric string, _ string, _ labels.Selector) ([]int64, time.Time, error) {
	value, found := w.now.External[metric]
	if !found {
		return nil, time.Time{}, fmt.Errorf("no metric %s", metric)
	}
	return []int64{value}, time.Now(), nil
}

func (w *world) Scales(string) scale.ScaleInterface { return scales{w: w} }

func (w *world) HorizontalPodAutoscalers(string) autoscalingclient.HorizontalPodAutoscalerInterface {
	return autoscalers{}
}

func (w *world) Events(string) corev1client.EventInterface { return events{} }

type scales struct {
	scale.ScaleInterface
	w *world
}

func (s scales) Get(context.Context, schema.GroupResource, string, metav1.GetOptions) (*autoscalingv1.Scale, error) {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       autoscalingv1.ScaleSpec{Replicas: s.w.replicas},
		Status:     autoscalingv1.ScaleStatus{Replicas: s.w.replicas, Selector: labels.FormatLabels(selector)},
	}, nil
}

func (s scales) Update(_ context.Context, _ schema.GroupResource, wanted *autoscalingv1.Scale, _ metav1.UpdateOptions) (*autoscalingv1.Scale, error) {
	s.w.replicas = wanted.Spec.Replicas
	return wanted, nil
}

type autoscalers struct {
	autoscalingclient.HorizontalPodAutoscalerInterface
}

func (autoscalers) UpdateStatus(_ context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, _ metav1.UpdateOptions) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	return hpa, nil
}

type mapper struct{ apimeta.RESTMapper }

func (mapper) RESTMappings(kind schema.GroupKind, _ ...string) ([]*apimeta.RESTMapping, error) {
	resource := schema.GroupVersionResource{Group: kind.Group, Version: "v1", Resource: "deployments"}
	return []*apimeta.RESTMapping{{Resource: resource, GroupVersionKind: kind.WithVersion("v1")}}, nil
}

// events drops all of them.
type events struct{ corev1client.EventInterface }

func (events) CreateWithEventNamespace(event *v1.Event) (*v1.Event, error) { return event, nil }

func (events) UpdateWithEventNamespace(event *v1.Event) (*v1.Event, error) { return event, nil }

func (events) PatchWithEventNamespace(event *v1.Event, _ []byte) (*v1.Event, error) {
	return event, nil
}

func (events) CreateWithEventNamespaceWithContext(_ context.Context, event *v1.Event) (*v1.Event, error) {
	return event, nil
}

func (events) UpdateWithEventNamespaceWithContext(_ context.Context, event *v1.Event) (*v1.Event, error) {
	return event, nil
}

func (events) PatchWithEventNamespaceWithContext(_ context.Context, event *v1.Event, _ []byte) (*v1.Event, error) {
	return event, nil
}

func podName(number int32) string { return fmt.Sprintf("%s-%d", name, number) }

func seconds(count float64) time.Duration { return time.Duration(count * float64(time.Second)) }
