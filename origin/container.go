package origin

import (
	"os"
	"strings"
)

// namespaces are the kernel's names of the namespaces of a process, "" where they
// may not be read.
type namespaces struct{ user, pid string }

func ownNamespaces() (n namespaces) {
	n.user, _ = os.Readlink("/proc/self/ns/user")
	n.pid, _ = os.Readlink("/proc/self/ns/pid")
	return n
}

func (p *process) namespaces() namespaces {
	return namespaces{user: p.readlink("ns/user"), pid: p.readlink("ns/pid")}
}

// foreign names the kind of namespace in which a process is and we are not. A
// mount namespace alone does not count: units have their own for PrivateTmp=.
func (n namespaces) foreign(own namespaces) string {
	switch {
	case n.user != "" && own.user != "" && n.user != own.user:
		return "user namespace"
	case n.pid != "" && own.pid != "" && n.pid != own.pid:
		return "pid namespace"
	}
	return ""
}

// container names what holds the caller: by his control group, where root's
// programs have named it, or else by his namespaces.
func (c *call) container(cgroup, namespace string) Fact {
	name := containerOf(cgroup)
	if name == "" {
		name = namespace
	}
	return Fact{Value: name, Proof: Kernel}
}

// containerOf returns the container that a control group is, "" if none. Names
// below another unit do not count, since that unit's user may have given them.
func containerOf(path string) string {
	if u := unitOf(path); u.name != "" {
		if name, ok := strings.CutSuffix(u.name, ".scope"); ok {
			for _, manager := range []struct{ prefix, name string }{
				{"docker-", "docker"}, {"libpod-conmon-", ""}, {"libpod-", "podman"}, {"crio-conmon-", ""}, {"crio-", "cri-o"},
				{"cri-containerd-", "containerd"}, {"machine-", "machine"}, {"lxc.payload.", "lxc"},
			} {
				if id, ok := strings.CutPrefix(name, manager.prefix); ok {
					return containerName(manager.name, id)
				}
			}
		}
		if name, ok := strings.CutPrefix(u.name, "systemd-nspawn@"); ok {
			return containerName("machine", strings.TrimSuffix(name, ".service"))
		}
		return ""
	}
	// Without systemd's help these make groups at the top.
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	id, _, _ := strings.Cut(rest, "/")
	switch {
	case strings.HasPrefix(first, "lxc.payload."):
		return containerName("lxc", strings.TrimPrefix(first, "lxc.payload."))
	case first == "lxc", first == "lxc.payload":
		return containerName("lxc", id)
	case first == "docker":
		return containerName("docker", id)
	case first == "libpod_parent":
		return containerName("podman", strings.TrimPrefix(id, "libpod-"))
	case first == "kubepods":
		return containerName("kubernetes", rest[strings.LastIndexByte(rest, '/')+1:])
	}
	return ""
}

// containerName puts the first 12 digits of an id, as their programs show it, or
// a name without the escapes of systemd behind the manager's name.
func containerName(manager, id string) string {
	if manager == "" || id == "" {
		return ""
	}
	if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" {
		id = id[:12]
	}
	return manager + " " + strings.ReplaceAll(id, `\x2d`, "-")
}
