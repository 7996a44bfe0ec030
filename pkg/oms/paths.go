package oms

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"
)

// defaultIgnores are left out at the top level, as the specification says.
var defaultIgnores = [...]string{".git", ".gitattributes", ".github", ".gitignore", ".gitmodules"}

// cleanPath reports whether p is a relative slash path without empty, "." or
// ".." elements, backslashes or NULs.
func cleanPath(p string) bool {
	return fs.ValidPath(p) && p != "." && !strings.ContainsAny(p, "\\\x00")
}

// cleanIgnore reports whether p may stand in ignore_paths: the specification
// forbids glob characters, which another reader might expand.
func cleanIgnore(p string) bool { return cleanPath(p) && !strings.ContainsAny(p, "*?[") }

// inside reports whether path is dir or below it.
func inside(path, dir string) bool {
	return path == dir || len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}

// folder is a model on disk: a folder, or one file of a folder.
type folder struct {
	root *os.Root
	only string // the name of the one file, or ""
}

// entry is one regular file of a folder.
type entry struct {
	path string
	size int64
}

// openFolder opens the model at path. A link at the end of path may lead to a
// folder: whoever names it means what it leads to. It may not lead to a file.
func openFolder(path string) (*folder, error) {
	reading := func(err error) error { return &Error{Class: Reading, Path: path, Err: err} }
	info, err := os.Stat(path)
	if err != nil {
		return nil, reading(err)
	}
	if info.IsDir() {
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, reading(err)
		}
		return &folder{root: root}, nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, reading(err)
	}
	root, err := os.OpenRoot(filepath.Dir(abs))
	if err != nil {
		return nil, reading(err)
	}
	return &folder{root: root, only: filepath.Base(abs)}, nil
}

func (f *folder) close() { f.root.Close() }

// files lists the regular files but for those at or below an ignored path.
// Anything that is neither a regular file nor a folder is an error, unless
// lenient: then it is left out.
func (f *folder) files(ctx context.Context, ignores []string, lenient bool) ([]entry, error) {
	if f.only != "" {
		info, err := f.root.Lstat(f.only)
		if err != nil {
			return nil, &Error{Class: Reading, Path: f.only, Err: err}
		}
		if err := regular(f.only, info.Mode()); err != nil {
			return nil, err
		}
		return []entry{{f.only, info.Size()}}, nil
	}
	ignored := make(map[string]bool, len(ignores))
	for _, p := range ignores {
		ignored[p] = true
	}
	var files []entry
	err := fs.WalkDir(f.root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return &Error{Class: Reading, Path: path, Err: err}
		case ctx.Err() != nil:
			return &Error{Class: Reading, Path: path, Err: context.Cause(ctx)}
		case path == ".":
			return nil
		case ignored[path]:
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if err := regular(path, d.Type()); err != nil && !(d.IsDir() && utf8.ValidString(path)) {
			if lenient {
				return nil
			}
			return err
		}
		if d.IsDir() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return &Error{Class: Reading, Path: path, Err: err}
		}
		files = append(files, entry{path, info.Size()})
		return nil
	})
	return files, err
}

// regular says why path, of the given type, cannot be a file of a model.
func regular(path string, mode fs.FileMode) error {
	switch {
	case !utf8.ValidString(path):
		return errf(Irregular, path, "its name is not UTF-8")
	case mode&fs.ModeSymlink != 0:
		return errf(Irregular, path, "a symbolic link: put the file itself there")
	case !mode.IsRegular():
		return errf(Irregular, path, "neither a file nor a folder")
	case !cleanPath(path):
		return errf(Irregular, path, "not a name a model may have")
	}
	return nil
}

// absent says why a signed file was not found: it is gone, or is something else.
func (f *folder) absent(path string) error {
	info, err := f.root.Lstat(filepath.FromSlash(path))
	switch {
	case err == nil && !info.IsDir() && regular(path, info.Mode()) != nil:
		return regular(path, info.Mode())
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return errf(Missing, path, "it was signed but is not there")
	}
	return &Error{Class: Reading, Path: path, Err: err}
}

// open opens a file for hashing, and says what it was then. A pipe put in its
// place meanwhile neither blocks nor is read.
func (f *folder) open(path string) (*os.File, fs.FileInfo, error) {
	file, err := f.root.OpenFile(filepath.FromSlash(path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, errf(Missing, path, "it is not there")
		}
		return nil, nil, &Error{Class: Reading, Path: path, Err: err}
	}
	info, err := file.Stat()
	if err != nil {
		err = &Error{Class: Reading, Path: path, Err: err}
	} else {
		err = regular(path, info.Mode())
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}
