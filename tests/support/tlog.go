// Checks what dumpvault proves with Go's own transparency log packages (golang.org/x/mod/sumdb): signed notes and RFC 6962.
//
//	tlog VKEY inclusion PROOF            a C2SP tlog-proof, with its record in "extra"
//	tlog VKEY tiles DIRECTORY            every record of a C2SP tlog-tiles log, by tiles and bundles alone
//	tlog VKEY consistency OLD NEW PROOF  two checkpoints, and the hashes between them in base64, one to a line
package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func read(path string) string {
	data, err := os.ReadFile(path)
	must(err)
	return string(data)
}

func hash(text string) tlog.Hash {
	var h tlog.Hash
	data, err := base64.StdEncoding.DecodeString(text)
	must(err)
	if len(data) != len(h) {
		must(fmt.Errorf("a hash of %d bytes", len(data)))
	}
	copy(h[:], data)
	return h
}

// tree is what a checkpoint says, once its log has been seen to have signed it.
func tree(text string, verifier note.Verifier) (int64, tlog.Hash) {
	n, err := note.Open([]byte(text), note.VerifierList(verifier))
	must(err)
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		must(fmt.Errorf("not a checkpoint of %s", verifier.Name()))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	return size, hash(lines[2])
}

// directory is where tiles are. C2SP's paths are those of x/mod's for height 8, without the height.
type directory string

func (d directory) Height() int                            { return 8 }
func (d directory) SaveTiles([]tlog.Tile, [][]byte)        {}
func (d directory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		data, err := os.ReadFile(string(d) + "/" + strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func readTiles(path string, verifier note.Verifier) {
	size, root := tree(read(path+"/checkpoint"), verifier)
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, directory(path))
	for first := int64(0); first < size; first += 256 {
		name := tlog.Tile{H: 8, L: 0, N: first / 256, W: 256}
		if size-first < 256 {
			name.W = int(size - first)
		}
		bundle := read(path + "/" + strings.Replace(name.Path(), "tile/8/0/", "tile/entries/", 1))
		for i := first; i < first+int64(name.W); i++ {
			length := int(bundle[0])<<8 | int(bundle[1])
			record := bundle[2 : 2+length]
			bundle = bundle[2+length:]
			proof, err := tlog.ProveRecord(size, i, reader)
			must(err)
			must(tlog.CheckRecord(proof, size, root, i, tlog.RecordHash([]byte(record))))
		}
		if bundle != "" {
			must(fmt.Errorf("bytes after the last record"))
		}
	}
}

func main() {
	verifier, err := note.NewVerifier(os.Args[1])
	must(err)
	if os.Args[2] == "inclusion" {
		head, checkpoint, _ := strings.Cut(read(os.Args[3]), "\n\n")
		lines := strings.Split(head, "\n")
		if lines[0] != "c2sp.org/tlog-proof@v1" {
			must(fmt.Errorf("not a proof"))
		}
		record, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
		must(err)
		index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
		must(err)
		var proof tlog.RecordProof
		for _, line := range lines[3:] {
			proof = append(proof, hash(line))
		}
		size, root := tree(checkpoint, verifier)
		must(tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(record)))
	} else if os.Args[2] == "tiles" {
		readTiles(os.Args[3], verifier)
	} else {
		oldSize, oldRoot := tree(read(os.Args[3]), verifier)
		size, root := tree(read(os.Args[4]), verifier)
		var proof tlog.TreeProof
		for _, line := range strings.Fields(read(os.Args[5])) {
			proof = append(proof, hash(line))
		}
		must(tlog.CheckTree(proof, size, root, oldSize, oldRoot))
	}
	fmt.Println("good")
}
