/*
 * Entry by Linux's arm64 boot protocol (Documentation/arm64/booting.rst): EL1, MMU and caches off, X0 = device tree. The code
 * runs at any address: nothing in it is relocated, and no data holds an address.
 */
	.section .text.start, "ax"
	.global	_start
_start:
#ifdef IMAGE
	/* The header of an Image: two instructions, offset, size, flags (4 KiB pages, anywhere), magic number. */
	b	start
	nop
	.quad	0
	.quad	image_size
	.quad	0xa
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	0
#endif
start:
	adr	x9, _start
	adrp	x10, first_stack_top
	add	x10, x10, :lo12:first_stack_top
	mov	sp, x10
	adrp	x10, vectors
	add	x10, x10, :lo12:vectors
	msr	vbar_el1, x10
	isb
	mov	x1, x9
	bl	start_payload
1:	wfi
	b	1b

/* Where PSCI starts another CPU: X0 = what to call. */
	.text
	.global	other_cpu_start
other_cpu_start:
	adrp	x10, second_stack_top
	add	x10, x10, :lo12:second_stack_top
	mov	sp, x10
	adrp	x10, vectors
	add	x10, x10, :lo12:vectors
	msr	vbar_el1, x10
	isb
	blr	x0
1:	wfi
	b	1b

/* Arm DDI 0487, "Exception vectors": 16 entries of 128 bytes; ours use the current EL's stack: entries 4 to 7. */
	.macro	entry target
	.balign	128
	b	\target
	.endm

	.balign	2048
vectors:
	.rept	4
	entry	fault
	.endr
	entry	fault
	entry	interrupt
	.rept	10
	entry	fault
	.endr

fault:
	mrs	x0, esr_el1
	mrs	x1, elr_el1
	mrs	x2, far_el1
	b	exception

/* Saves what a C function may change. */
interrupt:
	sub	sp, sp, #176
	stp	x0, x1, [sp]
	stp	x2, x3, [sp, #16]
	stp	x4, x5, [sp, #32]
	stp	x6, x7, [sp, #48]
	stp	x8, x9, [sp, #64]
	stp	x10, x11, [sp, #80]
	stp	x12, x13, [sp, #96]
	stp	x14, x15, [sp, #112]
	stp	x16, x17, [sp, #128]
	stp	x18, x29, [sp, #144]
	str	x30, [sp, #160]
	bl	take_interrupt
	ldp	x0, x1, [sp]
	ldp	x2, x3, [sp, #16]
	ldp	x4, x5, [sp, #32]
	ldp	x6, x7, [sp, #48]
	ldp	x8, x9, [sp, #64]
	ldp	x10, x11, [sp, #80]
	ldp	x12, x13, [sp, #96]
	ldp	x14, x15, [sp, #112]
	ldp	x16, x17, [sp, #128]
	ldp	x18, x29, [sp, #144]
	ldr	x30, [sp, #160]
	add	sp, sp, #176
	eret

	.section .bss.stack, "aw", @nobits
	.balign	16
	.skip	8192
first_stack_top:
	.skip	8192
second_stack_top:

	.section .note.GNU-stack, "", @progbits
