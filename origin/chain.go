package origin

// readChain opens a process and its ancestors, nearest first, up to the first
// ancestor at which it is told to stop. It ends before where a process cannot be
// seen or has ended. The caller closes them all.
//
// A parent is opened by the pid that its child names, and believed only if the
// child names it still after that: had the parent ended, and its pid gone to
// another process before it was opened, the child would have a new parent.
func readChain(pid int, stop func(ancestor *process) bool) []*process {
	p := openProcess(pid)
	if p == nil {
		return nil
	}
	chain := []*process{p}
	for len(chain) < maxChain {
		child := chain[len(chain)-1]
		parent := openProcess(child.ppid)
		if parent == nil {
			break
		}
		if now, ok := child.now(); !ok || now.ppid != child.ppid {
			parent.close()
			break
		}
		chain = append(chain, parent)
		if stop(parent) {
			break
		}
	}
	return chain
}

func closeChain(chain []*process) {
	for _, p := range chain {
		p.close()
	}
}

// steadyExe returns the executable of a process if its uids were the same before
// and after: so that neither it, nor arguments that were read before, can be those
// of a program that a setuid one has just turned itself into.
func (p *process) steadyExe() (string, bool) {
	exe := p.exe()
	now, ok := p.now()
	return exe, ok && exe != "" && now.uids == p.uids
}
