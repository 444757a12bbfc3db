package runner

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// Each parser of what an engine, an image or the kernel says has its target:
// it must not panic, keep more than its bound, or believe what is not whole.

func FuzzSSE(f *testing.F) {
	f.Add([]byte("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n"))
	f.Add([]byte(": comment\r\ndata:{}\r\n\r\n"))
	f.Add([]byte("data: [DONE]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := &answer{start: time.Now()}
		err := readSSE(bytes.NewReader(b), func(e []byte) error { return readOpenAI(e, a) }, a)
		if err == nil && !a.ended {
			t.Error("a stream without an end was believed")
		}
		if len(a.text) > answerLimit || a.count() < 0 {
			t.Errorf("%d bytes, %d tokens", len(a.text), a.count())
		}
	})
}

func FuzzOllama(f *testing.F) {
	f.Add([]byte("{\"response\":\"a\",\"done\":false}\n{\"done\":true,\"eval_count\":1}\n"))
	f.Add([]byte(`{"message":{"content":"x"},"done":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := &answer{start: time.Now()}
		if err := readLines(bytes.NewReader(b), func(e []byte) error { return readOllama(e, a) }, a); err == nil && !a.ended {
			t.Error("a stream without an end was believed")
		}
		if len(a.text) > answerLimit {
			t.Errorf("%d bytes", len(a.text))
		}
	})
}

func FuzzEmbedding(f *testing.F) {
	f.Add([]byte(`{"data":[{"embedding":[0.5,1e300,-0]}]}`))
	f.Add([]byte(`{"data":[{"embedding":"AACAPwAAAEA="}]}`))
	f.Add([]byte(`{"data":[{"embedding":"AADAfw=="}]}`)) // a NaN
	f.Fuzz(func(t *testing.T, b []byte) {
		a := &answer{}
		if err := readEmbedding(b, a); err == nil && (len(a.embedding) == 0 || len(a.embedding) > maxEmbedding) {
			t.Errorf("%d dimensions were believed", len(a.embedding))
		}
	})
}

func FuzzImage(f *testing.F) {
	f.Add([]byte(`[{"Config":{"Env":["A=b","LD_PRELOAD=x"],"Volumes":{"/data":{}},"Entrypoint":["/x"],"Cmd":null}}]`))
	f.Add([]byte(`[{"ImageConfig":{"config":{"Env":null}},"ManifestDesc":{"digest":"sha256:a"},"ImageConfigDesc":{"digest":"sha256:b"}}]`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, found, err := parseImage(b)
		if err == nil && found && (len(facts.env) > maxImageEnv || len(facts.volumes) > maxImageVolumes || facts.entries > len(facts.command)) {
			t.Errorf("%+v", facts)
		}
	})
}

func FuzzEngineAnswers(f *testing.F) {
	f.Add([]byte(`{"Client":{"Version":"v2.2.2"},"Server":{"Components":[{"Name":"runc","Version":"1.1.5"}]}}`))
	f.Add([]byte(`{"Pid":1,"Running":true,"ExitCode":0,"OOMKilled":false,"Status":"running"}`))
	f.Add([]byte(`{"name":"x","closed":true,"found":""}` + "\n" + `{"end":1}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseVersion(b); err == nil && (v == "" || len(v) > 256 || strings.ContainsAny(v, "\x1b\n")) {
			t.Errorf("version %q", v)
		}
		if s, err := parseState(b); err == nil && s.Pid < 0 {
			t.Errorf("pid %d", s.Pid)
		}
		if r, err := parseReport(b); err == nil && len(r.Tries) < minTries {
			t.Error("half a report was believed")
		}
	})
}

func FuzzProc(f *testing.F) {
	f.Add([]byte("68 45 0:38 / / ro,relatime - overlay overlay rw,lowerdir=/a\n76 68 254:0 /a\\040b /models/model ro shared:1 master:2 - ext4 /dev/vda rw\n"))
	f.Add([]byte("Name:\tx\nCapEff:\t0000000000000000\nSeccomp:\t2\n"))
	f.Add([]byte("MemTotal:       25259704 kB\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ms, err := parseMounts(b); err == nil {
			for _, m := range ms {
				if m.fstype == "" && m.source == "" && len(m.options) == 0 {
					t.Errorf("%+v", m)
				}
			}
		}
		parseStatus(b)
		if n := parseMemTotal(b); n < 0 {
			t.Error(n)
		}
	})
}

func FuzzSMI(f *testing.F) {
	f.Add([]byte("NVIDIA H100 80GB HBM3, GPU-4f1b2c3d, 81559, 9.0, 570.86.15\n"))
	f.Add([]byte("123, 4096\n77, [N/A]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		gpus, _, err := parseSMI(b)
		if err == nil && len(gpus) == 0 {
			t.Error("no GPU and no error")
		}
		for _, g := range gpus {
			if g.Memory < 0 || g.UUID == "" {
				t.Errorf("%+v", g)
			}
		}
		if n := parseSMIMemory(b, func(int) bool { return true }); n < 0 {
			t.Error(n)
		}
	})
}

func FuzzLoaded(f *testing.F) {
	f.Add([]byte(`{"engine":"nerdctl","instance":"","name":"rmodels.invalid/x:1","manifest":"sha256:` + strings.Repeat("0", 64) + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseLoaded(b)
		if err == nil && (!strings.HasPrefix(n.Name, localDomain) || n.Manifest.Validate() != nil) {
			t.Errorf("accepted %+v", n)
		}
	})
}
