#include "textflag.h"

// It asks for what /proc does not show, and stops itself by a kill(2) with two
// arguments too many, which /proc/PID/syscall shows.
TEXT stand_in(SB),NOSPLIT|NOFRAME,$0
	MOVQ $157, AX	// prctl(PR_GET_PDEATHSIG, into the free word below the stack)
	MOVQ $2, DI
	MOVL $0, -8(SP)
	LEAQ -8(SP), SI
	SYSCALL
	MOVQ $157, AX	// prctl(PR_GET_SECUREBITS)
	MOVQ $27, DI
	SYSCALL
	MOVQ AX, R12
	MOVQ $39, AX	// getpid()
	SYSCALL
	MOVQ AX, DI
	MOVQ $62, AX	// kill(pid, SIGSTOP)
	MOVQ $19, SI
	MOVLQZX -8(SP), DX
	MOVQ R12, R10
	SYSCALL
	MOVQ $231, AX	// exit_group(0)
	XORL DI, DI
	SYSCALL
