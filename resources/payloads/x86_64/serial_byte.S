/* The smallest guest, for the benchmark: one byte on COM1, then a reset. It needs nothing of the runtime. */
	.section .text.start, "ax"
	.globl	_start
_start:
	mov	$0x3f8, %edx
	mov	$'.', %al
	out	%al, (%dx)
	mov	$0xcf9, %edx
	mov	$0x6, %al	/* reset control: full reset, hard reset (ICH: RST_CNT) */
	out	%al, (%dx)
	hlt

	.section .note.GNU-stack, "", @progbits
